"""The dither is uniform, and independent between everything that keys it."""

import itertools

import numpy as np
import pytest
from scipy import stats

from hvd_gqsgd.maths import dither

WORDS = np.arange(1 << 16, dtype=np.uint32)


def planes(seed=0, step=0, tensor=1, rank=0, lanes=16):
    return dither.dither_planes(dither.Dither(dither.tensor_key(seed, step, tensor, rank)), WORDS, lanes)


def test_every_lane_is_uniform():
    for lane, values in enumerate(planes()):
        assert values.min() >= 0
        assert values.max() < 1 << dither.DITHER_BITS
        counts = np.bincount(values >> 8, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6, f"lane {lane}"


def test_the_low_bits_are_uniform_too():
    for lane, values in enumerate(planes()):
        counts = np.bincount(values & 0xFF, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6, f"lane {lane}"


def test_lanes_are_uncorrelated():
    correlation = np.corrcoef(planes())
    off_diagonal = correlation[~np.eye(len(correlation), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(len(WORDS))


def test_neighbouring_words_are_uncorrelated():
    for values in planes():
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 5 / np.sqrt(len(WORDS))


@pytest.mark.parametrize("part", ["seed", "step", "tensor", "rank"])
def test_neighbouring_keys_give_uncorrelated_noise(part):
    drawn = [planes(**{part: value}, lanes=2) for value in range(8)]
    for a, b in itertools.combinations(drawn, 2):
        assert not np.array_equal(a, b)
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(2 * len(WORDS))


def test_no_two_ranks_share_noise_by_swapping_parts_of_the_key():
    keys = {dither.tensor_key(*parts) for parts in itertools.product(range(6), repeat=4)}
    assert len(keys) == 6**4


def test_a_word_has_its_noise_wherever_the_call_begins():
    key = dither.Dither(dither.tensor_key(3, 1, 4, 1))
    whole = dither.dither_planes(key, WORDS, 5)
    part = dither.dither_planes(key, WORDS[1000:1010], 5)
    np.testing.assert_array_equal(whole[:, 1000:1010], part)
