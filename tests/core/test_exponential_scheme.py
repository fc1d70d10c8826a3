"""GlobalQSGD with exponential levels on loopback worlds: no bias, the same bits on every rank, settings."""

import math

import numpy as np
import pytest

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels.compiled import CompiledKernels
from hvd_gqsgd.schemes import GlobalQSGD, Rule, World
from hvd_gqsgd.telemetry import StepReport
from tests.core.loopback_cases import allreduce, buckets_for, gaussian, run

WORLDS = (2, 3, 8)
# What test_kernels_exponential holds to the specification, for the sake of time.
KERNELS = CompiledKernels(threads=1)


def exponential(**more):
    return GlobalQSGD(levels="exponential", **more)


@pytest.mark.parametrize("dither", ["correlated", "independent"])
@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("n", WORLDS)
def test_the_mean_is_unbiased_and_its_variance_within_the_bound(n, bits, dither):
    scheme, steps = exponential(bits=bits, rotation=None, dither=dither, block_size=64), 200
    inputs = gaussian(n, (128,), seed=n)
    x = np.array([i[0] for i in inputs], np.float64)
    mean = x.mean(axis=0)
    buckets, errors = buckets_for(scheme, inputs), []
    for step in range(steps):
        for bucket in buckets:
            bucket.step = step
        results = run(scheme, buckets, inputs, kernels=KERNELS)
        for other in results[1:]:
            np.testing.assert_array_equal(other[0], results[0][0])
        errors.append(results[0][0] - mean)
    # maths.exponential: x^2 / 8, and t^2 / 4 below the smallest level; of the mean of correlated codes, their mean; and
    # the same again of the mean.
    smallest = np.repeat(np.abs(x).reshape(n, 2, 64).max(axis=(0, 2)), 64) * 2.0 ** (2 - 2 ** (bits - 1))
    first = np.mean(x**2, axis=0) / 8 + smallest**2 / 4
    bound = first + (mean**2 + first) / 8 + smallest**2 / 4
    assert np.all(np.abs(np.mean(errors, axis=0)) < 5 * np.sqrt(bound / steps) + 1e-4)
    assert np.mean(np.var(errors, axis=0)) <= np.mean(bound)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_mean_of_rotated_blocks_is_unbiased(bits):
    scheme, steps, inputs = exponential(bits=bits, block_size=64), 300, gaussian(3, (128,))
    buckets, errors = buckets_for(scheme, inputs), []
    for step in range(steps):
        for bucket in buckets:
            bucket.step = step
        errors.append(
            run(scheme, buckets, inputs, kernels=KERNELS)[0][0]
            - np.mean([i[0] for i in inputs], axis=0, dtype=np.float64)
        )
    assert np.all(np.abs(np.mean(errors, axis=0)) < 5 * np.std(errors, axis=0) / math.sqrt(steps) + 1e-4)


def test_zeros_stay_zeros_and_small_elements_keep_their_size_beside_a_large_one():
    x = np.zeros(2048, np.float32)
    x[5], x[6:200] = 1e6, 1e-3
    (out, *_), *_ = allreduce(exponential(rotation=None), [[x]] * 2)
    assert not out[200:].any() and not out[:5].any()
    assert np.all((out[6:200] > 4e-4) & (out[6:200] < 2.1e-3))
    (out, *_), *_ = allreduce(GlobalQSGD(exchange="two_phase", rotation=None), [[x]] * 2)
    assert np.abs(out[6:200] - 1e-3).max() > 1e3 or not out[6:200].any()


def test_with_feedback_nothing_is_lost_of_what_ranks_send():
    scheme, inputs = exponential(bits=4, error_feedback=True), gaussian(3, (512,))
    assert scheme.dither == "nearest"
    residuals = [np.zeros(512, np.float32) for _ in inputs]
    totals, steps = np.zeros(512), 60
    for step in range(steps):
        buckets = buckets_for(scheme, inputs, step)
        for bucket, residual in zip(buckets, residuals, strict=True):
            bucket.residuals = [residual]
        totals += run(scheme, buckets, inputs)[0][0]
    exact = np.mean([i[0] for i in inputs], axis=0)
    # The second rounding is not fed back, but is not biased.
    assert np.linalg.norm(totals / steps - exact) < 0.1 * np.linalg.norm(exact)
    assert max(np.abs(r).max() for r in residuals) < 10


def test_a_bad_element_makes_its_block_nan_on_every_rank():
    inputs = gaussian(3, (1000,))
    inputs[1][0][300] = np.inf
    for (out,) in allreduce(exponential(bits=4), inputs):
        assert np.isnan(out[256:512]).all() and np.isfinite(np.delete(out, np.s_[256:512])).all()


def test_reports_count_blocks_and_do_not_guess_an_error():
    scheme, inputs = exponential(), gaussian(2, (1000, 300))
    inputs[0][1][7] = np.nan
    buckets = buckets_for(scheme, inputs)
    run(scheme, buckets, inputs)
    measured = scheme.measure(buckets[0], World(2, 0))
    assert (measured.blocks, measured.nonfinite_blocks) == (6, 1)
    report = StepReport.of(measured, operation="allreduce", step=0, sent_bytes=1, dense_bytes=4)
    assert math.isnan(report.relative_error) and measured.squared_mean > 0


def test_two_phase_is_what_exponential_levels_take_and_copies_are_equal():
    assert GlobalQSGD().exchange == "ring"
    scheme = exponential(bits={"embed": 8, "bias": None})
    assert scheme.exchange == "two_phase" and scheme.on_host and eval(repr(scheme)) == scheme
    scheme.check_world(100_000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"bits": 2},
            r"levels='exponential', bits=2\): expected widths from 3 to 8, got 2; write for instance bits=3, or",
        ),
        ({"bits": 16}, r"got 16; write for instance bits=8, or levels='uniform'"),
        ({"bits": (Rule(bits=9, name="a"), 8)}, r"bits=\(Rule.*, 8\)\): expected widths from 3 to 8, got 9"),
        (
            {"exchange": "ring"},
            r"powers of two do not add up to one, so .*; write exchange='two_phase' or leave it out",
        ),
        ({"levels": "log"}, r"levels='log'\): expected one of 'uniform', 'exponential', got 'log'; write for instance"),
    ],
)
def test_settings_that_do_not_go_with_it(settings, said):
    with pytest.raises(SettingsError, match=said):
        GlobalQSGD(**{"levels": "exponential", **settings})
