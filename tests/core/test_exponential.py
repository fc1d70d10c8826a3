"""Levels that are powers of two: no bias, errors relative to elements, the extremes of float32, the paper's sums."""

import math

import numpy as np
import pytest

from hvd_gqsgd.maths import dither, exponential, floats, lanes, quantize
from hvd_gqsgd.maths.dither import ONE, Turn, dither_of

BITS = (3, 4, 8)


def levels_of(bits):
    return (1 << (bits - 1)) - 1


def encode(x, bits, norms=None, kind="independent", turn=None, block_size=256, **more):
    """Words and norms of x, and the shape that reads them."""
    norms = quantize.block_norms(x, block_size, rotation_key=more.get("rotation_key")) if norms is None else norms
    shape = {"block_size": block_size, "bits": bits, "levels": levels_of(bits), "spacing": "exponential"}
    noise = dither_of(kind, turn or Turn(seed=3, step=1, rank=0, size=1), 5)
    return quantize.encode(x, norms, dither=noise, **shape, **more), norms, shape


def decode(words, norms, shape, numel, dtype="float32", **more):
    return quantize.decode(words, norms, numel=numel, factor=1.0, dtype=dtype, **shape, **more)


def round_trip(x, bits, **more):
    words, norms, shape = encode(x, bits, **more)
    return decode(words, norms, shape, x.size, "bfloat16" if x.dtype == np.uint16 else x.dtype.name)


@pytest.mark.parametrize("bits", range(exponential.MIN_BITS, exponential.MAX_BITS + 1))
def test_over_all_dithers_the_mean_is_the_element_to_the_dithers_grain(bits):
    s = levels_of(bits)
    sizes = np.concatenate([np.logspace(-6, 0, 60), [0.75, 0.5, 2.0 ** (1 - s), 0.6 * 2.0 ** (1 - s), 0.0]])
    x = np.concatenate([sizes, -sizes]).astype(np.float32)
    for some in np.array_split(x, 10):
        r = np.broadcast_to(np.arange(ONE, dtype=np.int32), (some.size, ONE))
        rows = np.broadcast_to(some[:, None], r.shape)
        values = exponential.powers(exponential.codes(rows, np.ones(some.size, np.float32), s, r), s)
        size, t = np.abs(some.astype(np.float64)), 2.0 ** (1 - s)
        assert np.all(np.abs(values.mean(axis=1) - some) <= np.maximum(size, t) / ONE)
        # Between levels a and 2 a it is (y - a) (2 a - y), below the smallest one y (t - y).
        bound = np.where(size < t, size * (t - size), size**2 / 8) + np.maximum(size, t) ** 2 / ONE
        assert np.all(values.var(axis=1) <= bound)


@pytest.mark.parametrize("kind", ["correlated", "independent"])
@pytest.mark.parametrize("bits", BITS)
def test_the_mean_of_ranks_is_unbiased(bits, kind):
    n, count = 3, 1 << 16
    rng = np.random.default_rng(bits)
    values = np.concatenate([rng.uniform(-1, 1, (n, 6)), 2.0 ** -rng.uniform(1, 9, (n, 6))], axis=1).astype(np.float32)
    for x in values.T:
        back = []
        for rank in range(n):
            turn, own = Turn(seed=1, step=2, rank=rank, size=n), np.full(count, x[rank])
            words, norms, shape = encode(own, bits, np.ones(1, np.float32), kind, turn, block_size=count)
            back.append(decode(words, norms, shape, count))
        mean = np.mean(back, axis=0, dtype=np.float64)
        assert abs(mean.mean() - x.mean(dtype=np.float64)) <= 5 * mean.std() / math.sqrt(count) + 2.0 / ONE


def test_errors_of_equal_elements_cancel_for_either_sign():
    for x in (np.float32(0.3), np.float32(-0.3)):
        sums = 0
        for rank in range(4):
            own = np.full(4096, x)
            turn = Turn(seed=1, step=2, rank=rank, size=4)
            words, norms, shape = encode(own, 8, np.ones(1, np.float32), "correlated", turn, block_size=4096)
            sums = sums + decode(words, norms, shape, 4096).astype(np.float64)
        assert np.all(np.abs(sums - 4 * float(x)) <= 0.25)
        # What one rank rounds up its mirror rounds down, though their elements differ in sign.
    pair = []
    for rank, x in ((0, 0.3), (1, -0.3)):
        turn = Turn(seed=1, step=2, rank=rank, size=2)
        own = np.full(4096, x, np.float32)
        words, norms, shape = encode(own, 8, np.ones(1, np.float32), "correlated", turn, block_size=4096)
        pair.append(decode(words, norms, shape, 4096))
    assert np.corrcoef(pair)[0, 1] < 0.1


@pytest.mark.parametrize("norm", [2.0**-149, 1e-40, 2.0**-126, 1e-20, 1 / 3, 3.0e38, np.finfo(np.float32).max])
@pytest.mark.parametrize("bits", BITS)
def test_elements_at_plus_and_minus_the_norm_come_back_exactly(bits, norm):
    x = np.tile(np.array([norm, -norm], dtype=np.float32), 300)
    for dtype in floats.DTYPES:
        short = floats.from_float64(x.astype(np.float64), dtype)
        if np.isfinite(floats.to_float32(short)).all():
            np.testing.assert_array_equal(floats.to_float32(round_trip(short, bits)), floats.to_float32(short))


def test_zeros_stay_zeros_and_what_is_too_small_to_divide_goes_to_zero_or_the_smallest_level():
    x = np.zeros(512, np.float32)
    x[0], x[1:6] = 3e38, (2.0**-149, -(2.0**-126), 1e-30, -1e-10, 2.0**-120)
    back = round_trip(x, 8)
    assert not back[6:].any() and back[0] == x[0]
    assert np.all(np.abs(back[1:6]) <= np.float32(3e38) * 2.0**-126)
    assert not round_trip(np.zeros(300, np.float32), 8).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_element_makes_its_block_nan_and_sends_zeros(bad):
    x = np.ones(512, np.float32)
    x[300] = bad
    words, norms, shape = encode(x, 4)
    assert np.isinf(norms[1]) and not words[words.size // 2 :].any()
    back = decode(words, norms, shape, 512)
    np.testing.assert_array_equal(back[:256], x[:256])
    assert np.isnan(back[256:]).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rotated", [False, True])
def test_what_is_left_over_is_what_was_not_sent(bits, rotated):
    rng = np.random.default_rng(0)
    x, residual = rng.standard_normal((2, 700)).astype(np.float32)
    before, key = residual.copy(), 77 if rotated else None
    norms = quantize.block_norms(x, 256, rotation_key=key, residual=residual)
    words, norms, shape = encode(x, bits, norms, residual=residual, rotation_key=key)
    sent = decode(words, norms, shape, 700, rotation_key=key)
    np.testing.assert_allclose(sent + residual, x + before, atol=2e-5)
    assert np.linalg.norm(residual) < np.linalg.norm(x + before)


def test_rotated_blocks_come_back_within_an_eighth():
    x = np.random.default_rng(0).standard_t(3, 4096).astype(np.float32)
    words, norms, shape = encode(x, 8, rotation_key=9)
    error = decode(words, norms, shape, x.size, rotation_key=9) - x
    assert np.linalg.norm(error) ** 2 < np.linalg.norm(x) ** 2 / 8


@pytest.mark.parametrize("levels", [5, 9])
def test_the_papers_sum_of_two_codes_is_unbiased_until_it_saturates(levels):
    rng, count = np.random.default_rng(levels), 20_000
    for a in range(-levels, levels + 1):
        for b in range(-levels, levels + 1):
            sums = exponential.reduce_codes(np.full(count, a, np.int8), np.int8(b), rng.random(count), levels)
            assert sums.dtype == np.int8 and np.abs(sums).max(initial=0) <= levels
            values = exponential.powers(sums.astype(np.int64), levels)
            exact = exponential.powers(np.array([a, b]), levels).sum()
            if max(abs(a), abs(b)) == levels and a * b > 0:
                assert np.all(values == math.copysign(1.0, a))
            else:
                assert abs(values.mean() - exact) <= 5 * values.std() / math.sqrt(count) + 1e-12


@pytest.mark.parametrize("order", ["tree", "ring"])
@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_trees_and_rings_are_unbiased_where_there_is_headroom(n, order):
    levels, count = 31, 20_000
    room = exponential.headroom(n) if order == "tree" else n
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n, 8)).astype(np.float32)
    norm = np.float32(np.abs(x).max() * 2.0**room)
    for element in x.T:
        noise = rng.integers(0, ONE, (n, count), dtype=np.int32)
        rows = np.broadcast_to(element[:, None], (n, count))
        waiting = list(exponential.codes(rows, np.full(n, norm), levels, noise))
        while len(waiting) > 1:
            pairs = zip(waiting[::2], waiting[1::2], strict=False) if order == "tree" else [waiting[:2]]
            rest = waiting[len(waiting) // 2 * 2 :] if order == "tree" else waiting[2:]
            waiting = [exponential.reduce_codes(a, b, rng.random(count), levels) for a, b in pairs] + rest
        assert np.abs(waiting[0]).max() < levels
        values = exponential.powers(waiting[0], levels) * float(norm)
        bias = abs(values.mean() - element.sum(dtype=np.float64))
        assert bias <= 5 * values.std() / math.sqrt(count) + n * np.abs(element).max() / ONE


def test_without_headroom_sums_saturate_and_keep_their_sign():
    top = np.full(8, -7)
    assert np.all(exponential.reduce_codes(top, top, np.zeros(8), 7) == -7)


def test_codes_fill_their_lanes_to_the_last_level():
    for bits in BITS:
        words, _, _ = encode(np.tile(np.array([1, -1], np.float32), 128), bits)
        codes = lanes.unpack(words, 256, bits)
        assert set(codes.tolist()) == {levels_of(bits), -levels_of(bits)}


def test_nearest_is_nearest():
    x = np.array([1.0, 0.74, 0.76, -0.74, -0.76, 0.49, 0.13], np.float32)
    s, noise = 3, np.full((1, 7), ONE // 2, np.int32)
    got = exponential.powers(exponential.codes(x[None], np.ones(1, np.float32), s, noise), s)
    assert got.tolist() == [[1.0, 0.5, 1.0, -0.5, -1.0, 0.5, 0.25]]
    assert dither.KINDS[-1] == "nearest"
