"""Levels leave headroom for the sum; lanes carry sums of codes exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.maths import lanes, levels


@given(bits=st.integers(2, 16), n=st.integers(1, 40_000))
def test_the_sum_of_n_codes_fits_its_lane_and_one_more_level_would_not(bits, n):
    most = 2 ** (bits - 1) - 1
    if n > most:
        with pytest.raises(SettingsError):
            levels.count_levels(bits, n)
        return
    count = levels.count_levels(bits, n)
    assert count >= 1
    assert n * count <= most < n * (count + 1)


@pytest.mark.parametrize(("n", "fits"), [(1, 2), (2, 3), (3, 3), (4, 4), (127, 8), (128, 9), (32767, 16)])
def test_too_many_ranks_names_the_smallest_bits_that_works(n, fits):
    assert levels.smallest_bits(n) == fits
    if fits > 2:
        with pytest.raises(SettingsError, match=rf"on {n} ranks.*write bits={fits} or more"):
            levels.count_levels(fits - 1, n)


def test_no_bits_work_beyond_32767_ranks():
    with pytest.raises(SettingsError, match="process sets of at most 32767"):
        levels.count_levels(16, 32768)


@given(
    bits=st.integers(2, 16),
    n=st.integers(1, 30),
    numel=st.integers(0, 70),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_of_words_are_sums_of_codes_in_any_order(bits, n, numel, seed):
    most = 2 ** (bits - 1) - 1
    if n > most:
        n = most
    rng = np.random.default_rng(seed)
    count = levels.count_levels(bits, n)
    codes = rng.integers(-count, count + 1, size=(n, numel))
    words = lanes.pack(codes, bits)
    assert words.dtype == np.int32
    assert words.shape == (n, lanes.words_for(numel, bits))
    for order in (np.arange(n), rng.permutation(n)):
        total = np.zeros(words.shape[1], dtype=np.int32)
        for rank in order:
            total = total + words[rank]
        np.testing.assert_array_equal(lanes.unpack(total, numel, bits), codes.sum(axis=0))


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("sign", [1, -1])
def test_every_lane_at_its_limit_neither_wraps_nor_borrows(bits, sign):
    most = sign * levels.max_lane_sum(bits)
    for pattern in (np.full(64, most), np.arange(64) % 2 * most, np.where(np.arange(64) % 2, most, -most)):
        words = lanes.pack(pattern, bits)
        np.testing.assert_array_equal(lanes.unpack(words, 64, bits), pattern)


def test_a_word_of_zeros_adds_nothing():
    words = lanes.pack(np.array([5, -7, 0, 127, -127]), 8)
    np.testing.assert_array_equal(lanes.unpack(words + np.zeros_like(words), 5, 8), [5, -7, 0, 127, -127])
