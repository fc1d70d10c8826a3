"""What TensorFlow encodes is what the specification encodes, and the other way round."""

import numpy as np
import pytest
import tensorflow as tf

from hvd_gqsgd.maths import floats
from hvd_gqsgd.maths.levels import MAX_BITS, MIN_BITS, max_lane_sum
from hvd_gqsgd.tensorflow.graph import Buffer, GraphKernels, PartBuffer
from hvd_gqsgd.tensorflow.library import operators
from tests.core import kernel_cases


@pytest.fixture(scope="module")
def kernels():
    return kernel_cases.make("tensorflow")


@pytest.mark.parametrize("dtype", floats.DTYPES)
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_random_cases(kernels, dtype, part):
    rng = np.random.default_rng([part, floats.DTYPES.index(dtype)])
    for _ in range(25):
        bits = int(rng.integers(MIN_BITS, MAX_BITS + 1))
        block_size = int(rng.choice([1, 7, 32, 100, 256, 1024]))
        numels = rng.integers(0, 5 * block_size + 300, size=rng.integers(1, 4)).tolist()
        size = int(rng.integers(1, max_lane_sum(bits) + 1))
        kernel_cases.check_case(kernels, [(dtype, numel) for numel in numels], block_size, bits, size, 1 / 3)


@pytest.mark.parametrize("dtype", floats.DTYPES)
@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_a_traced_graph_gives_the_same_bits(dtype, bits):
    turn = kernel_cases.turn_of(1)
    layout, tensors, expected = kernel_cases.case(((dtype, 3000), (dtype, 5)), 256, bits, 1, 0.25)

    @tf.function
    def step(first, second, count):
        kernels = GraphKernels(check=7)
        kernels.gate = tf.zeros([])
        parts = [PartBuffer(tf.bitcast(t, dtype) if dtype == "bfloat16" else t, 0) for t in (first, second)]
        norms, words = Buffer(), Buffer()
        here = turn._replace(seed=turn.seed % (1 << 64), step=count)
        kernels.block_norms(layout, parts, norms, here)
        kernels.encode(layout, parts, norms, words, here)
        outs = [PartBuffer(part.tensor * 1, 0) for part in parts]
        kernels.decode(layout, outs, words, norms, here, factor=tf.constant(0.25))
        results = [tf.bitcast(o.tensor, tf.uint16) if dtype == "bfloat16" else o.tensor for o in outs]
        return norms.tensor, words.tensor, results

    norms, words, outs = step(*map(tf.constant, tensors), tf.constant(turn.step, tf.int64))
    assert norms[0] == 7 and norms[1] == (1 << 24) - 7
    assert norms[2] == turn.step % (1 << 24)
    assert words[0] == 1
    kernel_cases.assert_same_bits(norms.numpy()[3:], expected.norms[3:], "norms")
    kernel_cases.assert_same_bits(words.numpy()[1:], expected.words[1:], "words")
    for out, wanted in zip(outs, expected.outs, strict=True):
        kernel_cases.assert_same_bits(out.numpy(), wanted, "outs")


def address_of(tensor):
    return tf.numpy_function(lambda array: np.int64(array.ctypes.data), [tensor], tf.int64)


@pytest.mark.parametrize("needed_later", [False, True])
def test_a_gradient_that_nobody_needs_any_more_gives_its_memory_to_the_result(needed_later):
    layout, _, _ = kernel_cases.case((("float32", 1 << 20),), 256, 8, 1, 1.0)
    words = Buffer(tf.ones([layout.words_numel], tf.int32))
    norms = Buffer(tf.ones([layout.norms_numel]))

    @tf.function
    def run(x):
        gradient = x * 2
        before = address_of(gradient)
        with tf.control_dependencies([before]):
            out = PartBuffer(gradient, 0)
            GraphKernels(1).decode(layout, [out], words, norms, kernel_cases.turn_of(1, seed=3), factor=tf.ones([]))
        with tf.control_dependencies([out.tensor]):
            later = gradient[0] * 1 if needed_later else tf.zeros([])
        return before, address_of(out.tensor), later

    before, after, later = run(tf.ones([1 << 20]))
    assert (before == after) != needed_later
    assert later == (2 if needed_later else 0)


@pytest.mark.parametrize("numel", [0, 1, 255])
def test_a_tensor_that_is_smaller_than_the_graph_was_made_for_says_so(numel):
    layout, _, _ = kernel_cases.case((("float32", 256),), 256, 8, 1, 1.0)
    kernels = GraphKernels(1)
    kernels.gate = tf.zeros([])
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"expected at least 256 elements, got {numel}"):
        kernels.block_norms(layout, [PartBuffer(tf.zeros([numel]), 0)], Buffer(), kernel_cases.turn_of(1, seed=3))


def test_norms_of_another_length_say_so():
    layout, _, _ = kernel_cases.case((("float32", 256),), 256, 8, 1, 1.0)
    words = Buffer(tf.ones([layout.words_numel], tf.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="input 2: expected 4 elements, got 5"):
        GraphKernels(1).decode(
            layout,
            [PartBuffer(tf.zeros([256]), 0)],
            words,
            Buffer(tf.ones([5])),
            kernel_cases.turn_of(1, seed=3),
            factor=tf.ones([]),
        )


def test_words_that_no_rank_is_in_say_so():
    layout, _, _ = kernel_cases.case((("float32", 256),), 256, 8, 1, 1.0)
    words = Buffer(tf.zeros([layout.words_numel], tf.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="counts no rank"):
        GraphKernels(1).decode(
            layout,
            [PartBuffer(tf.zeros([256]), 0)],
            words,
            Buffer(tf.ones([4])),
            kernel_cases.turn_of(1, seed=3),
            factor=tf.ones([]),
        )


def test_headers_that_differ_say_so():
    good = tf.constant([5.0, (1 << 24) - 5.0, 1.0])
    assert operators.hvd_gqsgd_verify(norms=good, range=1 << 24, message="no") is not None
    for bad in (good + tf.constant([1.0, 0.0, 0.0]), good + tf.constant([0.0, 1.0, 0.0]), good[:1]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="the ranks differ"):
            operators.hvd_gqsgd_verify(norms=bad, range=1 << 24, message="the ranks differ")
