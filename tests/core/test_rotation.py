"""The rotation is orthogonal but for its factor, undone exactly enough, and spreads what is large."""

import numpy as np
import pytest

from hvd_gqsgd.maths import quantize, rotation
from hvd_gqsgd.maths.dither import Dither

LENGTHS = (1, 2, 3, 7, 31, 32, 33, 100, 256, 300, 1000, 1023, 1024, 4095, 4096)


def blocks(m, count=5, seed=0):
    return np.random.default_rng(seed).standard_normal((count, m)).astype(np.float32)


@pytest.mark.parametrize("m", LENGTHS)
def test_unrotate_undoes_rotate(m):
    x = blocks(m)
    back = rotation.unrotate(rotation.rotate(x, 3, 4096, 5), 3, 4096, 5)
    np.testing.assert_allclose(back, x, atol=2e-6)


@pytest.mark.parametrize("m", LENGTHS)
def test_lengths_and_angles_are_kept_up_to_the_factor(m):
    x = blocks(m, count=2)
    # Both as the same block, whose signs they share.
    y = np.concatenate([rotation.rotate(row[None], 0, 4096, 1) for row in x]).astype(np.float64)
    d = 1 << (m.bit_length() - 1)
    factor = 1 / d if d == m else 1 / d**2
    np.testing.assert_allclose(y @ y.T, x.astype(np.float64) @ x.T.astype(np.float64) * factor, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("m", LENGTHS)
def test_it_is_linear(m):
    x = blocks(m, count=2)
    apart = sum(rotation.rotate(x[i : i + 1], 0, 4096, 1) for i in range(2))
    np.testing.assert_allclose(rotation.rotate(x[:1] + x[1:], 0, 4096, 1), apart, atol=1e-6)


@pytest.mark.parametrize("m", [m for m in LENGTHS if m >= 32])
def test_one_large_element_is_spread_over_the_block_wherever_it_is(m):
    for place in range(0, m, max(1, m // 50)):
        x = np.zeros((1, m), np.float32)
        x[0, place] = 1
        y = rotation.rotate(x, 0, 4096, 7)
        peak = np.abs(y).max() / np.sqrt(np.mean(y.astype(np.float64) ** 2))
        assert peak < (1.001 if m & (m - 1) == 0 else 6)


def test_every_block_tensor_and_seed_has_signs_of_its_own():
    x = np.tile(blocks(64, count=1), (4, 1))
    keys = [rotation.rotation_key(seed, tensor) for seed in (0, 1) for tensor in (1, 2)]
    rows = np.concatenate([rotation.rotate(x, 0, 64, key) for key in keys])
    assert len({row.tobytes() for row in rows}) == 16


def test_signs_depend_on_the_number_of_the_block_and_not_on_the_call():
    x = blocks(100, count=6)
    together = rotation.rotate(x, 0, 100, 3)
    np.testing.assert_array_equal(rotation.rotate(x[2:], 2, 100, 3), together[2:])


def test_heavy_tails_get_a_norm_near_that_of_a_gaussian_of_the_same_length():
    rng = np.random.default_rng(0)
    heavy = rng.standard_t(3, 1 << 16).astype(np.float32)
    plain = quantize.block_norms(heavy, 1024)
    rotated = quantize.block_norms(heavy, 1024, rotation_key=1) * np.sqrt(1024)
    assert np.mean(rotated**2) < np.mean(plain**2) / 5


@pytest.mark.parametrize("size", (2.0**-149, 1e-40, 2.0**-126, 1.0, 3e38))
def test_any_magnitude_comes_back(size):
    x = (np.random.default_rng(0).uniform(-1, 1, 1000) * size).astype(np.float32)
    norms = quantize.block_norms(x, 256, rotation_key=3)
    assert np.isfinite(norms).all() and (norms > 0).all()
    shape = {"block_size": 256, "bits": 16, "levels": 32767, "rotation_key": 3}
    words = quantize.encode(x, norms, dither=Dither(1), **shape)
    back = quantize.decode(words, norms, numel=1000, factor=1.0, dtype="float32", **shape)
    # A norm is at least the smallest float32, so an element is within 256 of those.
    assert np.abs(back.astype(np.float64) - x).max() <= 1e-3 * size + 256 * 2.0**-149
