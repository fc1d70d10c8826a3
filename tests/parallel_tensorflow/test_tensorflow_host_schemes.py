"""Schemes on the host, which run in Python between operators: the same contract, eagerly and in graphs."""

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from schemes import schemes_of
from tf_rig import MODES, SHAPES, assert_same_on_all_ranks, gradient, gradients_of, make_variables, run

import hvd_gqsgd.tensorflow
from hvd_gqsgd.errors import DisagreementError, UnsupportedError
from hvd_gqsgd.schemes.cutting import BUCKET_BYTES
from hvd_gqsgd.tensorflow import traffic
from hvd_gqsgd.tensorflow.state import CompressionState, _Memories

UNBIASED, HOST = schemes_of(hvd_gqsgd.tensorflow)


def large(results):
    return {name: result for name, result in results.items() if result.shape.num_elements() >= 1024}


#: Tracing is most of these tests' time: every scheme in a function, one in all modes.
WAYS = [(key, "function") for key in HOST] + [("two_phase", mode) for mode in MODES if mode != "function"]


@pytest.mark.parametrize("key, mode", [way for way in WAYS if way[0] in UNBIASED])
def test_the_mean_within_its_error(several, key, mode):
    make, bound = UNBIASED[key]
    # One sum among all these means.
    op, scale = (hvd.Sum, several) if mode == "eager" else (hvd.Average, 1)
    compression, variables = make(seed=401 + MODES.index(mode)), make_variables()
    for step in range(2):
        results = run(mode, lambda step=step: gradients_of(variables, compression, step=step, op=op))
        for name, result in results.items():
            exact = sum(gradient(name, result.shape, r, step) for r in range(several)) / several
            error = np.linalg.norm(result.numpy() / scale - exact) / np.linalg.norm(exact)
            assert error < (bound if result.shape.num_elements() >= 1024 else 1e-6), (name, step)
            assert_same_on_all_ranks(result)


DTYPES = [(key, tf.float64) for key in HOST] + [("two_phase", tf.float16), ("two_phase", tf.bfloat16)]


@pytest.mark.parametrize("key, dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_in_its_shape(several, key, dtype):
    compression, variables = HOST[key](seed=402), make_variables(dtype=dtype)
    for result in run("function", lambda: gradients_of(variables, compression)).values():
        assert result.dtype == dtype and np.isfinite(tf.cast(result, tf.float64).numpy()).all()
        assert_same_on_all_ranks(tf.cast(result, tf.float64))


@pytest.mark.parametrize("key", ["two_phase", "marsit", "gradiveq"])
def test_a_variable_larger_than_a_bucket(several, key):
    compression, variables = HOST[key](seed=403), make_variables({"w": (BUCKET_BYTES // 4 + 3,), "v": (3000,)})
    for result in run("function", lambda: gradients_of(variables, compression)).values():
        assert np.isfinite(result.numpy()).all() and np.abs(result.numpy()).max() > 0
        assert_same_on_all_ranks(result)


@pytest.mark.parametrize("key, mode", WAYS)
def test_what_is_not_finite_on_one_rank_is_nan_on_all_and_gone_in_the_next_step(several, key, mode):
    compression, variables = HOST[key](seed=404 + MODES.index(mode)), make_variables()
    for step, bad in enumerate((False, False, True, False, False)):
        given = {name: gradient(name, shape, hvd.rank(), step) for name, shape in SHAPES.items()}
        if bad and hvd.rank() == several - 1:
            given["dense/kernel"][300] = np.nan
        results = run(mode, lambda given=given: gradients_of(variables, compression, given=given))
        assert bool(np.isnan(results["dense/kernel"][300])) == bad
        assert np.isfinite(results["conv/kernel"].numpy()).all()
        for result in results.values():
            assert_same_on_all_ranks(tf.where(tf.math.is_nan(result), 7e9, result))


@pytest.mark.parametrize("key, mode", WAYS)
def test_a_restored_run_equals_an_uninterrupted_one_bit_for_bit(several, key, mode, tmp_path):
    compression, variables = HOST[key](seed=405 + MODES.index(mode)), make_variables()

    def steps(first):
        return [
            large(run(mode, lambda step=step: gradients_of(variables, compression, step=step)))
            for step in range(first, first + 4)
        ]

    steps(0)
    path = tf.train.Checkpoint(compression=compression.state()).write(str(tmp_path / "state"))
    uninterrupted = steps(4)
    steps(8)
    tf.train.Checkpoint(compression=compression.state()).read(path).assert_consumed()
    for before, after in zip(uninterrupted, steps(4), strict=True):
        for name, result in after.items():
            assert (result.numpy() == before[name].numpy()).all(), name


def test_a_checkpoint_is_read_by_a_process_that_has_not_stepped(tmp_path):
    state = CompressionState()
    state.memory("w[7:]", 5).arrays["scale"] = np.array([1.5, 2.5])
    state.memory("v", 3).residual[:] = 7
    state.step.assign(11)
    path = tf.train.Checkpoint(compression=state).write(str(tmp_path / "state"))
    other = CompressionState()
    tf.train.Checkpoint(compression=other).read(path).assert_consumed()
    assert other.step == 11 and set(other.memories.by_label) == {"w[7:]", "v"}
    assert other.memory("w[7:]", 5).arrays["scale"].tolist() == [1.5, 2.5]
    assert other.memory("v", 3).residual.tolist() == [7, 7, 7]
    with pytest.raises(UnsupportedError, match=r"of 'v': expected 3 elements as before, got 4; two models with equal"):
        other.memory("v", 4)
    empty = _Memories()
    empty.deserialize(_Memories().serialize())
    assert empty.by_label == {}


def test_other_settings_on_one_rank_are_an_error_on_every_rank(several):
    compression = HOST["marsit"](seed=407 + (hvd.rank() == 0))
    with pytest.raises(DisagreementError, match="expected the same compression settings on every rank"):
        hvd.allreduce(tf.ones([3000]), name="x", compression=compression)
    variables = make_variables()
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected the same compression settings on every rank"):
        gradients_of(variables, compression)


def test_bytes_are_counted_and_reported(several, reports):
    compression, variables = HOST["two_phase"](seed=410), make_variables({"w": (65536,)})
    step = tf.function(lambda: gradients_of(variables, compression)["w"])
    for _ in range(2):
        traffic.reset()
        step()
    report = reports[-1]
    assert [r.step for r in reports] == [0, 1] and report.blocks == 256 and report.nonfinite_blocks == 0
    assert report.dense_bytes == 65536 * 4 == traffic.dense_bytes
    # One norm of each block and all words travel twice half, norms once more to be agreed on.
    assert report.sent_bytes == pytest.approx(65536 * (1 + 4 / 256 * 1.5), rel=0.01)
    exact = sum(gradient("w", (65536,), r) for r in range(several)) / several
    result = step().numpy()
    assert report.relative_error == pytest.approx(np.linalg.norm(result - exact) / np.linalg.norm(result), rel=0.25)
