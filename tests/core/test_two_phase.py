"""GlobalQSGD(exchange="two_phase"): unbiased, all levels whatever n is, the same on every rank."""

import numpy as np
import pytest

from hvd_gqsgd.errors import DisagreementError, UnsupportedError
from hvd_gqsgd.kernels.compiled import CompiledKernels
from hvd_gqsgd.schemes import GlobalQSGD, World
from hvd_gqsgd.worlds import loopback
from tests.core.loopback_cases import KERNELS, allreduce, buckets_for, gaussian, run

NUMELS = (1000, 7, 256)
PLAIN = {"exchange": "two_phase", "rotation": None}


def exact(inputs):
    return [np.mean([tensors[i] for tensors in inputs], axis=0, dtype=np.float64) for i in range(len(inputs[0]))]


def relative_error(outs, inputs):
    means = exact(inputs)
    return sum(((o - m) ** 2).sum() for o, m in zip(outs, means, strict=True)) / sum((m**2).sum() for m in means)


@pytest.mark.parametrize("settings", [PLAIN, {"exchange": "two_phase"}, {**PLAIN, "dither": "independent"}], ids=str)
@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_mean_is_unbiased(n, settings):
    scheme, inputs = GlobalQSGD(bits=4, **settings), gaussian(n)
    kernels, draws = CompiledKernels(), 400
    results = np.array(
        [np.concatenate(allreduce(scheme, inputs, step=step, kernels=kernels)[0]) for step in range(draws)]
    )
    deviation = results.mean(axis=0) - np.concatenate(exact(inputs))
    # 1,263 elements, none of which may be beyond five standard errors. One that left its level in a draw or two, or in
    # none, has too small a variance in the sample: one draw by one level more.
    level = 4 / 7
    error = np.sqrt((results.var(axis=0, ddof=1) + level**2 / draws) / draws)
    assert np.abs(deviation / error).max() <= 5


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 64])
@pytest.mark.parametrize("kernels", [KERNELS, CompiledKernels()], ids=["reference", "compiled"])
def test_every_rank_has_the_same_and_it_does_not_get_worse_with_n(kernels, n):
    inputs = gaussian(n, (1000, 7, 256, 5000))
    results = allreduce(GlobalQSGD(**PLAIN), inputs, kernels=kernels)
    assert all(np.array_equal(a, b) for outs in results for a, b in zip(outs, results[0], strict=True))
    assert relative_error(results[0], inputs) < 2.5e-4


def test_two_hundred_ranks_have_all_levels_of_four_bits():
    inputs = gaussian(200, (2048,))
    first = allreduce(GlobalQSGD(bits=4, **PLAIN), inputs, kernels=CompiledKernels())[0]
    assert relative_error(first, inputs) < 0.1


def test_both_kernels_give_the_same_bits():
    inputs = gaussian(3)
    for settings in (PLAIN, {"exchange": "two_phase", "bits": 5}):
        ours, reference = (
            allreduce(GlobalQSGD(**settings), inputs, kernels=k)[0] for k in (CompiledKernels(), KERNELS)
        )
        assert all(np.array_equal(a, b) for a, b in zip(ours, reference, strict=True))


@pytest.mark.parametrize("n", [2, 8])
def test_extremes_are_met(n):
    inputs = [[np.full(700, 3e38, np.float32)] for _ in range(n)]
    assert np.allclose(allreduce(GlobalQSGD(**PLAIN), inputs)[0][0], 3e38, rtol=1e-6)
    zeros = [[np.zeros(700, np.float32)] for _ in range(n)]
    assert not allreduce(GlobalQSGD(**PLAIN), zeros)[0][0].any()
    tiny = [[np.full(700, 1e-42, np.float32)] for _ in range(n)]
    assert np.allclose(allreduce(GlobalQSGD(**PLAIN), tiny)[0][0], 1e-42, rtol=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rotation", ["hadamard", None])
def test_a_block_that_is_not_finite_on_one_rank_is_nan_on_all(bad, rotation):
    inputs = gaussian(3)
    inputs[1][0][300] = bad
    for outs in allreduce(GlobalQSGD(exchange="two_phase", rotation=rotation), inputs):
        assert np.isnan(outs[0][256:512]).all()
        assert np.isfinite(np.delete(outs[0], slice(256, 512))).all() and np.isfinite(outs[2]).all()


def test_feedback_keeps_what_each_rank_could_not_send():
    scheme, n, steps = GlobalQSGD(bits=4, error_feedback=True, exchange="two_phase"), 4, 200
    inputs = gaussian(n)
    buckets = buckets_for(scheme, inputs)
    for bucket in buckets:
        bucket.residuals = [np.zeros(numel, np.float32) for numel in NUMELS]
    total = 0.0
    for step in range(steps):
        for bucket in buckets:
            bucket.step = step
        total = total + np.concatenate(run(scheme, buckets, inputs, kernels=CompiledKernels())[0])
    single = np.concatenate(allreduce(GlobalQSGD(bits=4, exchange="two_phase"), inputs)[0])
    mean = np.concatenate(exact(inputs))
    assert np.linalg.norm(total / steps - mean) < np.linalg.norm(single - mean) / 5


def test_a_rank_that_joined_is_an_error_on_the_others():
    inputs = gaussian(3)
    inputs[1] = None
    scheme = GlobalQSGD(exchange="two_phase")
    buckets = buckets_for(scheme, inputs)
    for rank in (0, 2):
        with pytest.raises(UnsupportedError, match=r"'t0', 't1', 't2' after hvd.join: expected all 3 ranks, got 2;"):
            running = [
                scheme.collectives(buckets[r], KERNELS, World(3, r)) if r != 1 else None for r in (rank, 1, 2 - rank)
            ]
            loopback.run(running)


def test_ranks_that_differ_are_told_before_anything_is_exchanged():
    inputs = gaussian(2)
    scheme = GlobalQSGD(exchange="two_phase")
    buckets = [buckets_for(scheme, inputs, check=check)[rank] for rank, check in enumerate((7, 8))]
    with pytest.raises(DisagreementError, match="settings or tensors differ"):
        loopback.run([scheme.collectives(bucket, KERNELS, World(2, r)) for r, bucket in enumerate(buckets)])


@pytest.mark.parametrize("n", [2, 8])
def test_the_estimate_of_the_error_is_near_it(n):
    scheme, inputs = GlobalQSGD(bits=5, exchange="two_phase"), gaussian(n, (60_000,))
    buckets = buckets_for(scheme, inputs)
    (out,), *_ = run(scheme, buckets, inputs, kernels=CompiledKernels())
    measured = scheme.measure(buckets[0], World(n, 0))
    assert measured.squared_error == pytest.approx(float(((out - exact(inputs)[0]) ** 2).sum()), rel=0.25)
    assert measured.squared_mean == pytest.approx(float((out.astype(np.float64) ** 2).sum()), rel=0.25)


def test_bytes_are_those_of_an_allreduce_and_the_norms_of_the_mean():
    scheme, inputs = GlobalQSGD(**PLAIN), gaussian(4, (1 << 16,))
    buckets = buckets_for(scheme, inputs)
    sent = loopback.run([scheme.collectives(b, KERNELS, World(4, r)) for r, b in enumerate(buckets)])
    blocks = (1 << 16) // 256
    # Words half in each phase; norms once in full and the mean's half; header of three and one place for each rank.
    assert sent == (1 << 16) + 4 * blocks + 2 * blocks + 4 * (3 + 4)


def test_any_width_serves_any_world():
    scheme = GlobalQSGD(bits=2, exchange="two_phase")
    assert scheme.misfit(1000) == ""
    assert "bits=11 or more" in GlobalQSGD(bits=2).misfit(1000)
