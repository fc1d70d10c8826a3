"""Error feedback: nothing of a gradient is lost, it only comes later."""

import numpy as np
import pytest

from hvd_gqsgd.schemes import GlobalQSGD
from tests.core.loopback_cases import buckets_for, gaussian, run

FORMS = [
    {"rotation": rotation, "dither": dither}
    for rotation in ("hadamard", None)
    for dither in ("nearest", "correlated", "independent")
]


class World:
    """Ranks that exchange again and again."""

    def __init__(self, scheme, n, numels=(1000, 7, 256)):
        self.scheme, self.n, self.step = scheme, n, 0
        self.residuals = [[np.zeros(m, np.float32) for m in numels] for _ in range(n)]

    def mean(self, inputs):
        buckets = buckets_for(self.scheme, inputs, self.step)
        for bucket, residuals in zip(buckets, self.residuals, strict=True):
            bucket.residuals = residuals
        self.step += 1
        return run(self.scheme, buckets, inputs)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_was_to_be_sent_is_what_was_sent_and_what_is_left(n, form):
    world = World(GlobalQSGD(bits=4, error_feedback=True, **form), n)
    for step in range(5):
        inputs = gaussian(n, seed=step)
        before = [[r.copy() for r in residuals] for residuals in world.residuals]
        mean = world.mean(inputs)
        for index in range(3):
            wanted = np.mean([inputs[r][index] + before[r][index] for r in range(n)], axis=0)
            left = np.mean([world.residuals[r][index] for r in range(n)], axis=0)
            np.testing.assert_allclose(mean[index] + left, wanted, atol=1e-5)


@pytest.mark.parametrize("rotation", ["hadamard", None])
@pytest.mark.parametrize(("bits", "n"), [(2, 1), (3, 2), (3, 3), (5, 8)])
def test_the_mean_over_many_steps_is_exact_even_with_one_level(bits, n, rotation):
    world = World(GlobalQSGD(bits=bits, error_feedback=True, rotation=rotation), n, (512,))
    inputs = gaussian(n, (512,), seed=1)
    exact = np.mean([i[0] for i in inputs], axis=0)
    steps = 400
    total = sum(world.mean(inputs)[0].astype(np.float64) for _ in range(steps))
    largest = max(np.abs(r[0]).max() for r in world.residuals)
    # The whole error of all steps is what is left over.
    assert np.abs(total / steps - exact).max() <= 1.01 * largest / steps + 1e-6
    assert largest < 20


def test_without_feedback_rounding_to_nearest_forgets_small_elements():
    inputs = gaussian(2, (512,), seed=1)
    exact = np.mean([i[0] for i in inputs], axis=0)
    plain = GlobalQSGD(bits=3, dither="nearest")
    total = sum(run(plain, buckets_for(plain, inputs, s), inputs)[0][0].astype(np.float64) for s in range(50))
    assert np.linalg.norm(total / 50 - exact) > 0.3 * np.linalg.norm(exact)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_that_is_not_finite_leaves_what_was_left_over(form):
    world = World(GlobalQSGD(bits=4, error_feedback=True, **form), 2)
    world.mean(gaussian(2))
    before = [[r.copy() for r in residuals] for residuals in world.residuals]
    inputs = gaussian(2, seed=5)
    inputs[1][0][300] = np.nan
    mean = world.mean(inputs)
    assert np.isnan(mean[0][256:512]).all()
    for residuals, then in zip(world.residuals, before, strict=True):
        assert all(np.isfinite(r).all() for r in residuals)
        np.testing.assert_array_equal(residuals[0][256:512], then[0][256:512])


def test_zeros_send_what_was_left_over():
    world = World(GlobalQSGD(bits=4, error_feedback=True), 2)
    world.mean(gaussian(2))
    left = np.mean([r[0] for r in world.residuals], axis=0)
    zeros = [[np.zeros_like(t) for t in i] for i in gaussian(2)]
    total = np.zeros_like(left)
    for _ in range(12):
        total += world.mean(zeros)[0]
    np.testing.assert_allclose(total, left, atol=1e-3)
    assert max(np.abs(r[0]).max() for r in world.residuals) < 1e-3
