"""Slices of kernels, their principal components, and a sum that is the same on every machine."""

import numpy as np
import pytest

from hvd_gqsgd.maths import principal

RNG = np.random.default_rng


@pytest.mark.parametrize(
    ("filters", "depth", "places", "wanted", "expected"),
    [
        (16, 16, 9, 768, 768),  # the paper's example: 3 F D
        (64, 32, 9, 768, 512 * 2),  # F D = 2048 is too long: half of it, nearer than a quarter
        (64, 64, 9, 2048, 4096),  # F D is at most twice what was wanted
        (512, 512, 9, 2048, 2048),  # 4 F
        (64, 3, 49, 2048, 192 * 7),  # 7 x 7 places are cut in 1, 7 or 49
        (2048, 512, 1, 768, 1024),  # filters alone are too many
        (4, 2, 1, 768, 8),  # a kernel shorter than a slice is one slice
        (32, 1, 9, 768, 288),
    ],
)
def test_slice_length(filters, depth, places, wanted, expected):
    numel = principal.slice_length(filters, depth, places, wanted)
    assert numel == expected
    assert filters * depth * places % numel == 0


@pytest.mark.parametrize("shape", [(6, 4, 3, 5), (6, 4, 5), (3, 2, 4, 5, 2)])
def test_filters_are_the_fastest_then_depth_width_and_height(shape):
    kernel = RNG(0).standard_normal(shape).astype(np.float32)
    flat = kernel.reshape(-1)
    slices = principal.to_slices(flat, shape, "first", shape[0] * shape[1])
    spatial = tuple(range(2, len(shape)))
    np.testing.assert_array_equal(slices.reshape(-1), kernel.transpose(*spatial, 1, 0).reshape(-1))
    np.testing.assert_array_equal(principal.from_slices(slices, shape, "first"), flat)


def test_the_order_is_that_of_pytorchs_permute():
    torch = pytest.importorskip("torch")
    kernel = torch.randn(6, 4, 3, 5)
    expected = kernel.permute(2, 3, 1, 0).reshape(-1, 24).numpy()
    np.testing.assert_array_equal(principal.to_slices(kernel.reshape(-1).numpy(), (6, 4, 3, 5), "first", 24), expected)


def test_tensorflows_kernels_are_in_order():
    flat = RNG(0).standard_normal(3 * 3 * 4 * 8).astype(np.float32)
    slices = principal.to_slices(flat, (3, 3, 4, 8), "last", 32)
    assert slices.shape == (9, 32)
    assert np.shares_memory(slices, flat)
    np.testing.assert_array_equal(principal.from_slices(slices, (3, 3, 4, 8), "last"), flat)


def samples_with(variances, numel, count, seed=0):
    """Samples whose covariance has exactly these singular values, with a mean that is not zero."""
    rng = RNG(seed)
    left = np.linalg.qr(rng.standard_normal((count, len(variances) + 1)) - 0)[0]
    # Orthogonal to ones, so that the mean is left alone.
    left = np.linalg.qr(np.column_stack([np.ones(count), left]))[0][:, 1 : len(variances) + 1]
    right = np.linalg.qr(rng.standard_normal((numel, len(variances))))[0]
    return (3 + left * np.sqrt(variances) @ right.T).astype(np.float32), right


@pytest.mark.parametrize(("numel", "count"), [(300, 40), (40, 300)])
@pytest.mark.parametrize(
    ("loss", "most", "d"), [(0.01, 9, 3), (0.1, 9, 2), (0.5, 9, 1), (0.001, 9, 4), (0.0, 3, 3), (0.01, 2, 2)]
)
def test_the_fewest_components_that_keep_all_but_the_loss(numel, count, loss, most, d):
    samples, right = samples_with([80, 15, 4.5, 0.5], numel, count)
    mean, basis = principal.components(samples, loss, most, True)
    assert basis.shape == (numel, d)
    assert basis.dtype == mean.dtype == np.float32
    np.testing.assert_allclose(mean, samples.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(d), atol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(basis * right[:, :d], axis=0)), 1, atol=1e-4)


def test_without_a_centre_the_mean_is_a_direction_like_any_other():
    samples, _ = samples_with([1e-3, 1e-3], 50, 30)
    mean, basis = principal.components(samples, 0.01, 8, False)
    assert not mean.any()
    np.testing.assert_allclose(np.abs(basis.T @ np.full(50, 50**-0.5)), 1, rtol=1e-3)


def test_there_are_no_components_where_nothing_varies():
    mean, basis = principal.components(np.full((20, 64), 2.5, np.float32), 0.01, 8, True)
    assert basis.shape == (64, 0)
    np.testing.assert_array_equal(mean, np.float32(2.5))


def test_there_are_no_more_components_than_directions():
    samples, _ = samples_with([1, 1], 50, 30)
    assert principal.components(samples, 0.0, 20, True)[1].shape == (50, 2)


@pytest.mark.parametrize("d", [1, 5, 100, 257])
def test_what_lies_in_the_subspace_comes_back(d):
    rng = RNG(d)
    mean, basis = principal.components(rng.standard_normal((d + 1, 512)).astype(np.float32), 0.0, d, True)
    slices = (mean + rng.standard_normal((7, d)) @ basis.T.astype(np.float64)).astype(np.float32)
    coefficients, loss = principal.project(slices, mean, basis)
    rebuilt = principal.rebuild(coefficients, mean, basis)
    np.testing.assert_allclose(rebuilt, slices, rtol=0, atol=3e-6 * np.abs(slices).max())
    assert loss < 1e-6


def test_the_loss_is_what_is_missed():
    rng = RNG(1)
    mean, basis = principal.components(rng.standard_normal((40, 128)).astype(np.float32), 0.0, 16, True)
    slices = rng.standard_normal((5, 128)).astype(np.float32)
    coefficients, loss = principal.project(slices, mean, basis)
    error = np.linalg.norm(slices - principal.rebuild(coefficients, mean, basis)) / np.linalg.norm(slices)
    assert loss == pytest.approx(error**2, rel=1e-4)
    assert principal.project(np.zeros_like(slices), np.zeros_like(mean), basis)[1] == 0
    slices[2, 3] = np.inf
    assert np.isnan(principal.project(slices, mean, basis)[1])


@pytest.mark.parametrize("d", [1, 3, 64, 511])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_no_order_of_the_sum_changes_a_bit(d, size):
    rng = RNG(d)
    basis = np.linalg.qr(rng.standard_normal((512, d)))[0]
    unit = 1 << principal.BASIS_BITS
    basis = (np.rint(basis * unit) / unit).astype(np.float32)
    coefficients = (size * rng.standard_normal((4, d)) * rng.choice([1, 1e-5], (4, d))).astype(np.float32)
    mean = np.zeros(512, np.float32)
    expected = principal.rebuild(coefficients, mean, basis)
    for _ in range(3):
        order = rng.permutation(d)
        np.testing.assert_array_equal(principal.rebuild(coefficients[:, order], mean, basis[:, order]), expected)
    np.testing.assert_allclose(expected, coefficients.astype(float) @ basis.T, atol=1e-6 * np.abs(coefficients).max())


def test_no_coefficients_are_the_mean():
    mean = np.arange(8, dtype=np.float32)
    basis = np.eye(8, 2, dtype=np.float32)
    np.testing.assert_array_equal(principal.rebuild(np.zeros((3, 2), np.float32), mean, basis), np.tile(mean, (3, 1)))
