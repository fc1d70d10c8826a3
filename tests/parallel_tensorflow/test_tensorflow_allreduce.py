"""hvd.allreduce and hvd.grouped_allreduce with compression=GlobalQSGD."""

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from tf_rig import MODES, assert_are_means, assert_is_mean, gradient, run, still_works

from hvd_gqsgd.errors import DisagreementError, UnsupportedError
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.kernels.reference import ReferenceKernels
from hvd_gqsgd.maths import floats
from hvd_gqsgd.schemes import Bucket, World
from hvd_gqsgd.schemes import GlobalQSGD as Specification
from hvd_gqsgd.schemes.agreement import tensor_id
from hvd_gqsgd.tensorflow import GlobalQSGD, traffic
from hvd_gqsgd.worlds import loopback


def own(name, shape, dtype=tf.float32):
    return tf.cast(gradient(name, shape, hvd.rank()), dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(3000,), (7,), (3, 5, 200), (1024,)])
def test_the_mean_and_the_input_is_left_alone(mode, shape):
    # Horovod needs a name for a tensor that a graph takes from outside.
    name = "x" if mode == "function" else None
    x = own("x", shape)
    before = x.numpy().copy()
    assert_is_mean(run(mode, lambda: hvd.allreduce(x, name=name, compression=GlobalQSGD)), "x")
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("mode", MODES)
def test_sum_and_scale_factors(mode):
    x = own("x", (2000,))
    n = hvd.size()
    for scale, options in [
        (n, {"op": hvd.Sum}),
        (2.0, {"prescale_factor": 4.0, "postscale_factor": 0.5}),
        (n * 3.0, {"op": hvd.Sum, "postscale_factor": 3.0}),
        (1.0, {"average": True}),
    ]:
        result = run(mode, lambda options=options: hvd.allreduce(x, name="x", compression=GlobalQSGD, **options))
        assert_is_mean(result, "x", scale=scale)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
@pytest.mark.parametrize("numel", [1, 1023, 5000])
def test_dtypes(dtype, numel):
    result = hvd.allreduce(own("x", (numel,), dtype), compression=GlobalQSGD)
    assert result.dtype == dtype
    assert_is_mean(result, "x")


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.uint8])
def test_integers_travel_as_horovod_sends_them(dtype):
    x = tf.cast(tf.range(3000) % 50, dtype)
    result = hvd.allreduce(x, op=hvd.Sum, compression=GlobalQSGD)
    np.testing.assert_array_equal(result, x.numpy() * hvd.size())


def test_variables():
    x, y = tf.Variable(own("x", (3000,))), tf.Variable(own("y", (7,)))
    assert_is_mean(hvd.allreduce(x, compression=GlobalQSGD), "x")
    first, second = hvd.grouped_allreduce([x, y], compression=GlobalQSGD)
    assert_is_mean(first, "x")
    assert_is_mean(second, "y")


@pytest.mark.parametrize("mode", MODES)
def test_grouped_allreduce(mode):
    shapes = {"a": (3000,), "b": (5,), "c": (40, 50)}
    given = [own(name, shape) for name, shape in shapes.items()]
    results = run(mode, lambda: hvd.grouped_allreduce(given, name="group", compression=GlobalQSGD))
    assert_are_means(dict(zip(shapes, results, strict=True)))


def test_one_tensor_twice_in_a_group(several):
    x = own("x", (3000,))
    first, second = hvd.grouped_allreduce([x, x], compression=GlobalQSGD)
    assert_is_mean(first, "x")
    assert_is_mean(second, "x")
    # Each has a place and so a dither of its own.
    assert (first.numpy() != second.numpy()).any()


def test_groups_of_another_length_on_one_rank_say_so(several):
    x = own("x", (3000,))
    with pytest.raises(DisagreementError, match="grouped_allreduce of 'x': .*expected the same tensors on every rank"):
        hvd.grouped_allreduce([x] * (1 + (hvd.rank() == 0)), name="x", compression=GlobalQSGD)
    still_works()


def test_arrays_of_numpy(several):
    array = gradient("x", (3000,), hvd.rank()).astype("f")
    traffic.reset()
    assert_is_mean(hvd.allreduce(array, compression=GlobalQSGD), "x")
    for result in hvd.grouped_allreduce([array, own("x", (3000,))], compression=GlobalQSGD):
        assert_is_mean(result, "x")
    assert traffic.dense_bytes == 3 * 12_000


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_a_world_of_one_that_only_the_running_graph_knows(mode, monkeypatch):
    # Alone or not, a direct call has no tf.cond of Horovod's around it.
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    x = own("x", (3000,))
    result = run(mode, lambda: hvd.allreduce(x, name="x", op=hvd.Sum, compression=GlobalQSGD))
    assert_is_mean(result, "x", scale=hvd.size())


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("op", [hvd.Average, hvd.Sum])
@pytest.mark.parametrize("numel", [10, 3000])
def test_gradients_flow_as_without_compression(mode, op, numel):
    x = own("x", (numel,))
    weights = tf.cast(np.linspace(-1, 1, numel), tf.float32)

    def gradient_with(compression):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(hvd.allreduce(x, op=op, name="x", compression=compression) * weights)
        return tape.gradient(loss, x)

    exact = run(mode, lambda: gradient_with(hvd.Compression.none))
    ours = run(mode, lambda: gradient_with(GlobalQSGD))
    np.testing.assert_allclose(ours, exact, atol=4 * hvd.size() / (127 // hvd.size()))
    assert np.abs(exact).max() > 0.5


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16, tf.float64])
def test_the_result_is_the_specifications_to_the_bit(several, dtype):
    # What every rank decodes from the sum of all words is what NumPy makes of all tensors, seed, step and name.
    settings = {"bits": 6, "block_size": 100, "seed": (1 << 63) + 5}
    compression, specification = GlobalQSGD(**settings), Specification(**settings)
    for turn, numel in enumerate((1024, 5000, 99_999)):
        name = f"spec{numel}"
        step = int(compression.state().step)
        result = hvd.allreduce(own(name, (numel,), dtype), name=name, compression=compression)
        assert int(compression.state().step) == step + 1
        members = (Member(tensor_id=tensor_id(name), numel=numel, dtype=dtype.name, bits=6),)
        layout = Layout(members=members, **specification.layout_settings())
        buckets, exchanges = [], []
        for rank in range(several):
            values = tf.cast(gradient(name, (numel,), rank), dtype)
            array = tf.bitcast(values, tf.uint16).numpy() if dtype == tf.bfloat16 else values.numpy()
            norms, words = np.zeros(layout.norms_numel, np.float32), np.zeros(layout.words_numel, np.int32)
            bucket = Bucket(layout, (name,), 1 + turn, norms, words, [array], step=step)
            buckets.append(bucket)
            exchanges.append(specification.collectives(bucket, ReferenceKernels(), World(several, rank)))
        loopback.run(exchanges)
        out = np.zeros(numel, floats.storage(dtype.name))
        specification.decode(buckets[0], ReferenceKernels(), World(several, 0), [out], scale=1.0)
        got = tf.bitcast(result, tf.uint16).numpy() if dtype == tf.bfloat16 else result.numpy()
        np.testing.assert_array_equal(got, out)


@pytest.mark.parametrize("op", [hvd.Adasum, hvd.Min, hvd.Max, hvd.Product])
def test_other_reductions_say_so(op):
    with pytest.raises(UnsupportedError, match="allreduce of 'x' with op=.*expected op Average or Sum"):
        hvd.allreduce(own("x", (3000,)), name="x", op=op, compression=GlobalQSGD)
    still_works()


def test_reducescatter_says_so():
    for call in (hvd.reducescatter, lambda x, **options: hvd.grouped_reducescatter([x], **options)):
        with pytest.raises(UnsupportedError, match="reducescatter.*write compression=hvd.Compression.none"):
            call(own("x", (3000,)), compression=GlobalQSGD)
    still_works()


def test_a_call_from_elsewhere_says_so():
    with pytest.raises(UnsupportedError, match="expected a call from Horovod"):
        GlobalQSGD.compress(own("x", (3000,)))


@pytest.mark.parametrize("shape", [[None], [None, 3], None])
def test_a_shape_that_is_not_known_says_so(several, shape):
    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32)])
    def reduce(x):
        return hvd.allreduce(x, name="x", compression=GlobalQSGD)

    with pytest.raises(UnsupportedError, match=r"allreduce of 'x'.*expected a static shape.*write tf.ensure_shape"):
        reduce(tf.zeros([1000, 3] if shape is None or len(shape) == 2 else [3000]))
    still_works()


def test_xla_says_so(several):
    x = own("x", (3000,))

    @tf.function(jit_compile=True)
    def reduce():
        return hvd.allreduce(x, name="x", compression=GlobalQSGD)

    with pytest.raises(UnsupportedError, match=r"allreduce of 'x'.*write tf.function\(jit_compile=False\)"):
        reduce()
    still_works()
