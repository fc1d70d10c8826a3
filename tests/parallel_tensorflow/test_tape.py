"""hvd.DistributedGradientTape with compression=GlobalQSGD."""

import gc
import weakref

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from tf_rig import (
    MODES,
    SHAPES,
    assert_are_means,
    assert_is_mean,
    assert_same_on_all_ranks,
    gradient,
    gradients_of,
    make_variables,
    run,
    still_works,
)

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.schemes import cutting
from hvd_gqsgd.tensorflow import GlobalQSGD, traffic


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("compression", [GlobalQSGD, GlobalQSGD()])
def test_class_and_instance(mode, compression):
    variables = make_variables()
    results = run(mode, lambda: gradients_of(variables, compression))
    assert_are_means(results)
    for name, result in results.items():
        assert result.dtype == tf.float32
        assert result.shape == SHAPES[name]
        assert_same_on_all_ranks(result)


@pytest.mark.parametrize("bits", [3, 4, 5, 6, 7, 8, 11, 16])
def test_widths(bits):
    variables = make_variables()
    assert_are_means(run("function", lambda: gradients_of(variables, GlobalQSGD(bits=bits))), bits=bits)


@pytest.mark.parametrize("mode", MODES)
def test_sum(mode):
    variables = make_variables()
    assert_are_means(run(mode, lambda: gradients_of(variables, op=hvd.Sum)), scale=hvd.size())


@pytest.mark.parametrize("mode", MODES)
def test_gradient_predivide_factor(mode):
    variables = make_variables()
    assert_are_means(run(mode, lambda: gradients_of(variables, gradient_predivide_factor=3.0)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [1, 2, "lists"])
def test_groups(mode, groups):
    variables = make_variables()
    if groups == "lists":
        groups = [[variables["dense/bias"], variables["conv/kernel"]], [variables["dense/kernel"]]]
    assert_are_means(run(mode, lambda: gradients_of(variables, groups=groups)))


def test_num_groups():
    variables = make_variables()
    with pytest.warns(DeprecationWarning, match="num_groups"):
        assert_are_means(gradients_of(variables, num_groups=2))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
@pytest.mark.parametrize("groups", [None, 1])
def test_dtypes(dtype, groups):
    variables = make_variables(dtype=dtype)
    results = run("function", lambda: gradients_of(variables, groups=groups))
    assert_are_means(results)
    assert all(result.dtype == dtype for result in results.values())


def test_mixed_dtypes_in_one_bucket():
    variables = {
        dtype.name: tf.Variable(tf.zeros([2000], dtype), name=dtype.name)
        for dtype in (tf.float16, tf.float64, tf.float32, tf.bfloat16)
    }
    assert_are_means(run("function", lambda: gradients_of(variables)))


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16])
def test_a_tensor_larger_than_a_bucket(mode, dtype):
    numel = 5 * cutting.BUCKET_BYTES // dtype.size // 2 + 11
    variables = make_variables({"small/kernel": (2000,), "large/kernel": (numel,), "more/kernel": (1100, 3)}, dtype)
    assert_are_means(run(mode, lambda: gradients_of(variables)))


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_variables_without_a_gradient(mode):
    variables = make_variables()
    unused = tf.Variable(tf.zeros([3000]), name="unused")

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(
                variables["conv/kernel"] * tf.cast(gradient("conv/kernel", (8, 300), hvd.rank()), "float32")
            )
        tape = hvd.DistributedGradientTape(tape, compression=GlobalQSGD)
        return tape.gradient(loss, [unused, variables["conv/kernel"]])

    nothing, result = run(mode, step)
    assert nothing is None
    assert_is_mean(result, "conv/kernel")


@pytest.mark.parametrize("shape", [(3000,), (2999,), (3100,), (1500, 2)])
def test_a_gradient_whose_shape_only_its_variable_knows(several, shape):
    variable = tf.Variable(tf.zeros([3000]), name="w")
    own = np.resize(gradient("w", (3000,), hvd.rank()).astype("f"), shape)

    @tf.custom_gradient
    def total(x):
        return tf.reduce_sum(x), lambda upstream: tf.numpy_function(lambda: own, [], tf.float32)

    def step():
        with tf.GradientTape() as tape:
            loss = total(variable)
        return hvd.DistributedGradientTape(tape, compression=GlobalQSGD).gradient(loss, [variable])[0]

    if shape != (3000,):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"is not compatible with expected shape \[3000\]"):
            run("function", step)
        still_works()
    else:
        assert_is_mean(tf.ensure_shape(run("function", step), [3000]), "w")


def test_nothing_keeps_gradients_alive():
    x = tf.constant(np.zeros(5000, "f"))
    alive = weakref.ref(x)
    hvd.allreduce(x, compression=GlobalQSGD)
    del x
    gc.collect()
    assert alive() is None


def test_no_gradient_at_all():
    unused = tf.Variable(tf.zeros([3000]), name="unused")
    with tf.GradientTape() as tape:
        loss = tf.constant(1.0)
    assert hvd.DistributedGradientTape(tape, compression=GlobalQSGD).gradient(loss, [unused]) == [None]


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_all_ranks_at_plus_or_minus_max_come_back_to_the_last_place(mode):
    shape, plain = (4096,), GlobalQSGD(rotation=None)
    variables = make_variables({"w": shape})
    for sign in (1.0, -1.0):
        given = {"w": np.full(shape, sign * 3e38)}
        result = run(mode, lambda given=given: gradients_of(variables, plain, given=given))["w"]
        np.testing.assert_allclose(result, given["w"], rtol=2**-22)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16])
def test_a_bad_element_on_one_rank_is_nan_on_all_in_its_block_alone(several, bad, dtype):
    variables = make_variables({"w": (2000,)}, dtype)

    def own(rank):
        values = gradient("w", (2000,), rank)
        if rank == several - 1:
            values[700] = bad
        return values

    result = run("function", lambda: gradients_of(variables, given={"w": own(hvd.rank())}))["w"].numpy()
    assert np.isnan(result[512:768]).all()
    assert np.isfinite(result[:512]).all()
    assert np.isfinite(result[768:]).all()


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_the_step_restored_from_a_checkpoint_gives_the_same_bits(mode, tmp_path):
    compression = GlobalQSGD(seed=11, min_numel=1)
    variables = make_variables()
    gradients_of(variables, compression)
    state = compression.state()
    assert state is GlobalQSGD(seed=11, min_numel=1).state()
    path = tf.train.Checkpoint(compression=state).write(str(tmp_path / f"state{hvd.rank()}"))
    saved = int(state.step)
    step = (lambda: gradients_of(variables, compression)) if mode == "eager" else tf.function(gradients_of)
    arguments = () if mode == "eager" else (variables, compression)
    first = [step(*arguments) for _ in range(3)]
    if hvd.size() > 1:
        assert int(state.step) == saved + 3
    tf.train.Checkpoint(compression=state).read(path).assert_consumed()
    assert int(state.step) == saved
    second = [step(*arguments) for _ in range(3)]
    for one, other in zip(first, second, strict=True):
        for name in variables:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("as_dense", [False, True])
@pytest.mark.parametrize("mode", ["eager", "function"])
def test_sparse_gradients(mode, as_dense):
    table = tf.Variable(tf.zeros([300, 8]), name="embedding")
    rows = [hvd.rank(), 7, 7, 200 + hvd.rank()]

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, rows))
        tape = hvd.DistributedGradientTape(tape, compression=GlobalQSGD, sparse_as_dense=as_dense)
        return tape.gradient(loss, [table])[0]

    result = run(mode, step)
    assert isinstance(result, tf.IndexedSlices) != as_dense
    expected = np.zeros((300, 8))
    for rank in range(hvd.size()):
        for row in (rank, 7, 7, 200 + rank):
            expected[row] += 1 / hvd.size()
    # Every rank has the same norm in a row's block but for row 7's, so a level is at most 2 / L.
    np.testing.assert_allclose(tf.convert_to_tensor(result), expected, atol=2 / (127 // hvd.size()))


def test_layers_numbered_otherwise_on_one_rank(several):
    # As Keras does on a rank that has made another model first.
    first = 2 if hvd.rank() == 1 else 0
    names = [f"dense_{number}/kernel" if number else "dense/kernel" for number in (first, first + 1)]
    variables = [tf.Variable(tf.zeros([2000]), name=name) for name in names]
    given = [gradient(f"w{i}", (2000,), hvd.rank()) for i in range(2)]
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(v * tf.cast(g, tf.float32)) for v, g in zip(variables, given, strict=True)])
    results = hvd.DistributedGradientTape(tape, compression=GlobalQSGD).gradient(loss, variables)
    for index, result in enumerate(results):
        assert_is_mean(result, f"w{index}")


def test_gradients_applied_in_another_order_on_one_rank(several):
    # Equal probes must not become one, whose name would depend on the rest of a rank's graph.
    variables = make_variables({f"w{i}": (2000,) for i in range(5)})

    @tf.function
    def step():
        results = gradients_of(variables)
        for name in sorted(variables, reverse=hvd.rank() == 0):
            variables[name].assign(results[name])

    for _ in range(3):
        step()
        assert_are_means({name: v.read_value() for name, v in variables.items()})


def test_second_derivatives_say_so(several):
    weights = tf.Variable(tf.ones([3000]), name="w")

    @tf.function
    def penalty():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = tf.reduce_sum(weights**3)
            first = hvd.DistributedGradientTape(inner, compression=GlobalQSGD).gradient(loss, [weights])[0]
            total = tf.reduce_sum(first**2)
        return outer.gradient(total, weights)

    with pytest.raises(UnsupportedError, match="got a derivative of reduced gradients; write"):
        penalty()
    still_works()


def test_traffic_counts_what_is_handed_to_horovod(several):
    variables = make_variables({"w": (100_000,), "v": (100_000,), "bias": (10,)})
    step = tf.function(lambda: gradients_of(variables))
    step()
    traffic.reset()
    assert (traffic.sent_bytes, traffic.dense_bytes, traffic.ratio) == (0, 0, 1.0)
    step()
    blocks = -(-100_000 // 256)
    words = (100_000 // 256) * 64 + -(-(100_000 % 256) // 4)
    assert traffic.dense_bytes == 4 * 200_010
    # The agreement, the probes, the bias, norms and words with their headers.
    assert traffic.sent_bytes == 8 + 2 * 4 + 40 + 4 * (3 + 2 * blocks) + 4 * (1 + 2 * words)


def test_process_sets(several):
    evens = hvd.add_process_set(range(0, several, 2))
    try:
        variables = make_variables({"w": (3000,)})
        if hvd.rank() % 2 == 0:
            members = range(0, several, 2)
            for mode in ("eager", "function"):
                result = run(mode, lambda: gradients_of(variables, process_set=evens))["w"]
                values = [gradient("w", (3000,), rank) for rank in members]
                level = max(np.abs(v).max() for v in values) / (127 // len(values))
                assert np.abs(result.numpy() - sum(values) / len(values)).max() <= level
    finally:
        hvd.remove_process_set(evens)
