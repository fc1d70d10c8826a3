"""One tensor's arithmetic: bounds, the extremes of float32, non-finite values, and no bias."""

import numpy as np
import pytest

from hvd_gqsgd.maths import dither, lanes, quantize


def round_trip(x, *, bits=8, levels=127, block_size=256, key=1, norms=None):
    norms = quantize.block_norms(x, block_size) if norms is None else norms
    words = quantize.encode(x, norms, block_size=block_size, bits=bits, levels=levels, key=key)
    return quantize.decode(
        words, norms, numel=x.size, block_size=block_size, bits=bits, levels=levels, factor=1.0
    ), norms


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("numel", [0, 1, 2, 255, 256, 257, 1000])
def test_the_error_is_less_than_one_level(bits, numel):
    x = np.random.default_rng(numel).standard_normal(numel).astype(np.float32)
    levels = 2 ** (bits - 1) - 1
    back, norms = round_trip(x, bits=bits, levels=levels)
    level = np.repeat(norms, 256)[:numel] / levels
    assert np.all(np.abs(back - x) <= level * (1 + 1e-6))


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("norm", [2.0**-149, 1e-40, 2.0**-126, 1e-20, 1.0, 1 / 3, 3.0e38, np.finfo(np.float32).max])
def test_elements_at_plus_and_minus_the_norm_come_back_exactly(bits, norm):
    x = np.tile(np.array([norm, -norm], dtype=np.float32), 300)
    back, _ = round_trip(x, bits=bits, levels=2 ** (bits - 1) - 1)
    np.testing.assert_array_equal(back.astype(np.float32), x)


def test_subnormal_blocks_keep_their_values():
    x = (np.arange(-64, 64) * 2.0**-149).astype(np.float32)
    back, norms = round_trip(x, bits=16, levels=32767)
    assert norms[0] == np.float32(64 * 2.0**-149)
    assert np.abs(back - x).max() <= float(norms[0]) / 32767


def test_zeros_come_back_as_zeros_even_among_others():
    x = np.zeros(600, dtype=np.float32)
    x[400] = 3.0
    back, norms = round_trip(x)
    np.testing.assert_array_equal(norms, [0, 3, 0])
    assert back[400] == 3.0
    assert np.count_nonzero(back) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_element_makes_its_block_nan_and_no_other(bad):
    x = np.ones(1000, dtype=np.float32)
    x[300] = bad
    back, norms = round_trip(x)
    assert norms[1] == np.inf
    assert np.isnan(back[256:512]).all()
    np.testing.assert_array_equal(back[:256], 1)
    np.testing.assert_array_equal(back[512:], 1)


def test_a_block_that_is_bad_elsewhere_sends_zeros_here():
    x = np.ones(512, dtype=np.float32)
    norms = np.array([np.inf, 2.0], dtype=np.float32)
    words = quantize.encode(x, norms, block_size=256, bits=8, levels=127, key=0)
    assert not words[:64].any()
    assert words[64:].any()


def test_float64_beyond_float32_counts_as_infinite():
    assert quantize.block_norms(np.array([1e300, 1.0]), 1).tolist() == [np.inf, 1.0]


def test_rounding_is_unbiased_for_every_fraction():
    # 4096 positions between two levels, 2^12 draws each: the mean is within 5 sigma of each position.
    levels, draws = 4, 1 << 12
    positions = np.linspace(-1, 1, 4096, dtype=np.float32)
    total = np.zeros(positions.size)
    for step in range(draws):
        x = np.append(positions, np.float32(1))
        key = dither.tensor_key(0, step, 1, 0)
        total += round_trip(x, bits=4, levels=levels, block_size=8192, key=key)[0][:-1]
    fraction = np.abs(positions) * levels % 1
    sigma = np.sqrt(np.maximum(fraction * (1 - fraction), 2**-16) / draws) / levels
    assert np.all(np.abs(total / draws - positions) < 5.5 * sigma + 2.0**-16 / levels)


def test_unequal_norms_are_the_agreed_ones_not_the_local_ones():
    x = np.full(256, 0.5, dtype=np.float32)
    back, _ = round_trip(x, norms=np.array([127.0], dtype=np.float32))
    assert set(np.unique(back)) <= {0.0, 1.0}


def test_every_block_starts_a_new_word():
    x = np.ones(10, dtype=np.float32)
    words = quantize.encode(x, np.ones(4, np.float32), block_size=3, bits=8, levels=1, key=0)
    assert words.size == quantize.count_words(10, 3, 8) == 4
    np.testing.assert_array_equal(lanes.unpack(words[:, None], 3, 8), [[1, 1, 1]] * 3 + [[1, 0, 0]])
