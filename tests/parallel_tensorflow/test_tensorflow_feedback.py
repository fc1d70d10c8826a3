"""Error feedback in graphs and in eager mode, and state in checkpoints."""

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from tf_rig import MODES, gradient, gradients_of, make_variables, run

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.schemes.cutting import BUCKET_BYTES
from hvd_gqsgd.tensorflow import GlobalQSGD, Rule
from hvd_gqsgd.tensorflow.state import CompressionState


def mean_over_ranks(array, name):
    return hvd.allreduce(tf.constant(array, tf.float64), name=name).numpy()


def left_over(compression, name):
    """Of all parts of a variable, one after the other."""
    kept = compression.state().residuals
    starts = {int(key[len(name) + 1 : -2] or 0) if key != name else 0: key for key in kept if key.split("[")[0] == name}
    return np.concatenate([kept[starts[start]].numpy() for start in sorted(starts)]).astype(np.float64)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_not_sent_is_left_over(several, mode):
    compression = GlobalQSGD(bits=4, error_feedback=True, seed=300 + MODES.index(mode))
    variables = make_variables()
    total = {name: 0.0 for name in variables}
    for step in range(4):
        for name, mean in run(mode, lambda step=step: gradients_of(variables, compression, step=step)).items():
            total[name] = total[name] + mean.numpy().astype(np.float64)
    for name in ("conv/kernel", "dense/kernel"):
        shape = variables[name].shape
        exact = sum(gradient(name, shape, r, s) for r in range(several) for s in range(4)) / several
        still = mean_over_ranks(left_over(compression, name), f"left.{name}").reshape(shape)
        assert np.abs(exact - total[name] - still).max() < 1e-4
    assert set(compression.state().residuals) == {"conv/kernel", "dense/kernel"}


def test_a_traced_function_goes_on_from_step_to_step(several):
    compression = GlobalQSGD(bits=3, error_feedback=True, seed=310)
    variables = make_variables({"w": (3000,)})
    step = tf.function(lambda: gradients_of(variables, compression)["w"])
    exact = sum(gradient("w", (3000,), r) for r in range(several)) / several
    steps = [step().numpy().astype(np.float64) for _ in range(60)]
    assert np.linalg.norm(np.mean(steps, axis=0) - exact) < np.linalg.norm(steps[0] - exact) / 10


def test_a_variable_larger_than_a_bucket(several):
    compression = GlobalQSGD(bits=4, error_feedback=True, seed=311)
    shape = (3 * BUCKET_BYTES // 8 + 3,)
    variables = make_variables({"w": shape})
    total = sum(gradients_of(variables, compression, step=s)["w"].numpy().astype(np.float64) for s in range(2))
    exact = sum(gradient("w", shape, r, s) for r in range(several) for s in range(2)) / several
    still = mean_over_ranks(left_over(compression, "w"), "left.large")
    assert len(compression.state().residuals) == 2
    assert np.abs(exact - total - still).max() < 1e-4


def test_two_models_with_equal_names_keep_apart_by_their_seeds(several):
    models = [
        (GlobalQSGD(bits=4, error_feedback=True, seed=seed), make_variables({"w": (3000,)})) for seed in (312, 314)
    ]
    totals = [0.0, 0.0]
    for step in range(3):
        for which, (compression, variables) in enumerate(models):
            mean = gradients_of(variables, compression, step=10 * which + step)["w"]
            totals[which] = totals[which] + mean.numpy().astype(np.float64)
    for which, (compression, _) in enumerate(models):
        exact = sum(gradient("w", (3000,), r, 10 * which + s) for r in range(several) for s in range(3)) / several
        still = mean_over_ranks(left_over(compression, "w"), f"two.{which}")
        assert np.abs(exact - totals[which] - still).max() < 1e-4


def test_two_models_with_equal_names_and_other_shapes_say_so(several):
    compression = GlobalQSGD(bits=4, error_feedback=True, seed=315)
    gradients_of(make_variables({"w": (3000,)}), compression)
    with pytest.raises(
        UnsupportedError, match="'w': expected 3000 elements as before, got 2000; two models with equal"
    ):
        gradients_of(make_variables({"w": (2000,)}), compression)


def test_a_step_that_is_not_finite_leaves_what_was_left_over(several):
    compression = GlobalQSGD(bits=4, error_feedback=True, seed=313)
    variables = make_variables({"w": (2048,)})
    gradients_of(variables, compression)
    before = compression.state().residuals["w"].numpy()
    bad = np.array(gradient("w", (2048,), hvd.rank()))
    if hvd.rank() == 0:
        bad[300] = np.inf
    result = gradients_of(variables, compression, given={"w": bad})["w"].numpy()
    assert np.isnan(result[256:512]).all() and np.isfinite(result[512:]).all()
    after = compression.state().residuals["w"].numpy()
    np.testing.assert_array_equal(after[256:512], before[256:512])
    assert np.isfinite(after).all()


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_named_allreduces_have_feedback_and_unnamed_ones_say_so(several, mode):
    compression = GlobalQSGD(bits=3, error_feedback=True, seed=320 + (mode == "eager"))
    x = tf.cast(gradient("x", (2000,), hvd.rank()), tf.float32)
    exact = sum(gradient("x", (2000,), r) for r in range(several)) / several
    steps = [run(mode, lambda: hvd.allreduce(x, name="x", compression=compression)).numpy() for _ in range(40)]
    mean = np.mean(np.asarray(steps, np.float64), axis=0)
    assert np.linalg.norm(mean - exact) < np.linalg.norm(steps[0] - exact) / 8
    with pytest.raises(UnsupportedError, match="expected a name, by which to know the tensor again"):
        run(mode, lambda: hvd.allreduce(x, compression=compression))


@pytest.mark.parametrize("mode", ["eager", "function"])
@pytest.mark.parametrize("settings", [{}, {"error_feedback": True}])
def test_a_run_resumed_from_a_checkpoint_equals_an_uninterrupted_one_bit_for_bit(several, mode, settings, tmp_path):
    seed = 330 + 2 * (mode == "eager") + len(settings)
    compression = GlobalQSGD(bits=(Rule(bits=5, name="conv"), 4), seed=seed, **settings)
    variables = make_variables()
    step = tf.function(gradients_of) if mode == "function" else gradients_of
    for number in range(3):
        step(variables, compression, step=number)
    path = tf.train.Checkpoint(compression=compression.state()).write(str(tmp_path / f"state{hvd.rank()}"))
    uninterrupted = [step(variables, compression, step=n) for n in range(3, 6)]
    tf.train.Checkpoint(compression=compression.state()).read(path).assert_consumed()
    resumed = [step(variables, compression, step=n) for n in range(3, 6)]
    for then, now in zip(uninterrupted, resumed, strict=True):
        for name in ("conv/kernel", "dense/kernel"):
            np.testing.assert_array_equal(then[name].numpy(), now[name].numpy())


def test_residuals_that_are_made_after_a_checkpoint_was_read_have_its_values(tmp_path):
    saved = CompressionState()
    saved.residual("w", 100).assign(tf.range(100, dtype=tf.float32))
    saved.step.assign(7)
    path = tf.train.Checkpoint(compression=saved).write(str(tmp_path / f"late{hvd.rank()}"))
    fresh = CompressionState()
    tf.train.Checkpoint(compression=fresh).read(path)
    assert int(fresh.step) == 7
    np.testing.assert_array_equal(fresh.residual("w", 100).numpy(), np.arange(100))
