"""One tensor's arithmetic: bounds, the extremes of float32, non-finite values, and no bias."""

import numpy as np
import pytest

from hvd_gqsgd.maths import dither, floats, lanes, quantize


def round_trip(x, *, bits=8, levels=127, block_size=256, key=1, norms=None):
    norms = quantize.block_norms(x, block_size) if norms is None else norms
    shape = {"block_size": block_size, "bits": bits, "levels": levels}
    words = quantize.encode(x, norms, dither=dither.Dither(key), **shape)
    dtype = "bfloat16" if x.dtype == np.uint16 else x.dtype.name
    return quantize.decode(words, norms, numel=x.size, factor=1.0, dtype=dtype, **shape), norms


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
def test_elements_at_plus_and_minus_the_norm_come_back_to_the_last_place(bits, norm):
    x = np.tile(np.array([norm, -norm], dtype=np.float32), 300)
    levels = 2 ** (bits - 1) - 1
    back, _ = round_trip(x, bits=bits, levels=levels)
    assert back.dtype == np.float32
    assert np.all(np.abs(back.astype(np.float64) - x) <= 2.0**-23 * np.abs(x.astype(np.float64)))
    # What float32 has to spare rounds away in the shorter types, and what was float64 loses nothing.
    for dtype in ("float16", "bfloat16", "float64"):
        short = floats.from_float64(x.astype(np.float64), dtype)
        if np.isfinite(floats.to_float32(short)).all():
            back, _ = round_trip(short, bits=bits, levels=levels)
            assert back.dtype == short.dtype
            np.testing.assert_array_equal(floats.to_float32(back), floats.to_float32(short))


def decoded(sums, norm, *, levels, factor=1.0, dtype="float32"):
    """``decode`` of 16-bit sums under one norm, and the unit in float64."""
    words = lanes.pack(np.asarray(sums, dtype=np.int32)[None], 16).reshape(-1)
    norms = np.array([norm], dtype=np.float32)
    shape = {"numel": len(sums), "block_size": len(sums), "bits": 16, "levels": levels}
    return quantize.decode(words, norms, factor=factor, dtype=dtype, **shape), float(norms[0]) * (factor / levels)


ALL_SUMS = np.arange(-(1 << 15), 1 << 15)


@pytest.mark.parametrize("norm", [3e-33, 1e-20, 0.1, 1.0, 1 / 3, 65504.0, 1e33])
@pytest.mark.parametrize("levels", [7, 127, 16383, 32767])
def test_a_float32_is_the_product_of_float32_factors_and_within_2_to_the_minus_23(norm, levels):
    back, unit = decoded(ALL_SUMS, norm, levels=levels, factor=-1 / 7)
    np.testing.assert_array_equal(back, ALL_SUMS.astype(np.float32) * np.float32(unit))
    exact = ALL_SUMS.astype(np.float64) * unit
    assert np.all(np.abs(back.astype(np.float64) - exact) <= (2.0**-23 + 2.0**-47) * np.abs(exact))
    assert np.any(back != exact.astype(np.float32))
    as_double, _ = decoded(ALL_SUMS, norm, levels=levels, factor=-1 / 7, dtype="float64")
    np.testing.assert_array_equal(as_double, exact)


@pytest.mark.parametrize("levels", [7, 127, 16383, 32767])
def test_units_that_float32_would_spoil_stay_in_float64(levels):
    for norm in (2.0**-149, 3 * 2.0**-149, 1e-40, 2.0**-126):
        back, unit = decoded(ALL_SUMS, norm, levels=levels)
        assert unit < 2.0**-126
        np.testing.assert_array_equal(back, (ALL_SUMS * unit).astype(np.float32))
    # As much as float32 holds where the sum is smaller than L, and infinite where the true value is.
    largest = float(np.finfo(np.float32).max)
    for factor in (1.0, 3.0, 1e4):
        back, unit = decoded(ALL_SUMS, largest, levels=levels, factor=factor * levels)
        assert unit > 2.0**111
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(back, (ALL_SUMS * unit).astype(np.float32))


@pytest.mark.parametrize("levels", range(1, 128))
def test_the_largest_float32_never_overflows(levels):
    back, _ = decoded([levels, -levels], np.finfo(np.float32).max, levels=levels)
    np.testing.assert_allclose(back.astype(np.float64), np.finfo(np.float32).max * np.array([1.0, -1.0]), rtol=2.0**-23)


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
    words = quantize.encode(x, norms, block_size=256, bits=8, levels=127, dither=dither.Dither(0))
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
    words = quantize.encode(x, np.ones(4, np.float32), block_size=3, bits=8, levels=1, dither=dither.Dither(0))
    assert words.size == quantize.count_words(10, 3, 8) == 4
    np.testing.assert_array_equal(lanes.unpack(words[:, None], 3, 8), [[1, 1, 1]] * 3 + [[1, 0, 0]])
