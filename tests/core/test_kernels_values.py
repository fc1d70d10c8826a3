"""Every implementation gives the bits of the specification, for all values."""

from __future__ import annotations

import numpy as np
import pytest

from hvd_gqsgd.kernels.layout import NORMS_HEADER, WORDS_HEADER
from hvd_gqsgd.maths import floats, lanes
from hvd_gqsgd.maths.levels import MAX_BITS, MIN_BITS, max_lane_sum
from tests.core import kernel_cases
from tests.core.kernel_cases import HEADER, assert_same_bits, check, layout_of, specification, to_dtype

BITS = range(MIN_BITS, MAX_BITS + 1)
ALL_16_BITS = np.arange(1 << 16, dtype=np.uint16)
SIZES = (2.0**-149, 2.0**-133, 2.0**-126, 1e-30, 2.0**-90, 2.0**-24, 2.0**-14, 1.0, 65504.0, 3e38)


def check_values(kernels, tensors, dtypes, *, block_size, bits, agreed=None):
    for rotated in (False, True):
        layout = layout_of([(d, t.size) for d, t in zip(dtypes, tensors, strict=True)], block_size, bits, rotated)
        for residuals in ((), [np.full(t.size, 1e-3, np.float32) for t in tensors]):
            arguments = {"size": 1, "factor": 1.0, "agreed": agreed, "residuals": residuals}
            check(kernels, layout, tensors, specification(layout, tensors, **arguments), **arguments)


@pytest.mark.parametrize("dtype", floats.DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_norms_from_the_smallest_to_the_largest(kernels, dtype, size):
    x = np.random.default_rng(1).uniform(-1, 1, 512)
    x[[3, 300]] = 1, -1
    check_values(kernels, [to_dtype(x * size, dtype)], [dtype], block_size=256, bits=8)


@pytest.mark.parametrize("bits", BITS)
def test_all_elements_at_the_norm_fill_every_lane_to_its_last_level(kernels, bits):
    for size in SIZES:
        x = np.full(515, size) * np.where(np.arange(515) % 3 == 1, -1, 1)
        tensors = [to_dtype(x, "float32"), to_dtype(x, "float64")]
        check_values(kernels, tensors, ["float32", "float64"], block_size=256, bits=bits)
    layout = layout_of([("float32", 515)], 256, bits)
    norms, words = np.full(layout.norms_numel, size, np.float32), np.zeros(layout.words_numel, np.int32)
    kernels.encode(layout, tensors[:1], norms, words, kernel_cases.turn_of(1))
    first = words[WORDS_HEADER : WORDS_HEADER + lanes.words_for(256, bits)]
    assert np.array_equal(lanes.unpack(first, 256, bits), max_lane_sum(bits) * np.sign(x[:256]))


@pytest.mark.parametrize("dtype", floats.DTYPES)
@pytest.mark.parametrize("bad", (np.nan, -np.nan, np.inf, -np.inf))
def test_one_bad_element_makes_its_block_infinite_and_nan(kernels, dtype, bad):
    for place in (0, 31, 32, 40, 63, 64, 69):
        x = np.linspace(-1, 1, 70)
        x[place] = bad
        tensors = [to_dtype(x, dtype)]
        check_values(kernels, tensors, [dtype], block_size=32, bits=8)
        layout = layout_of([(dtype, 70)], 32, 8)
        norms = np.zeros(layout.norms_numel, np.float32)
        kernels.block_norms(layout, tensors, norms, kernel_cases.turn_of(1))
        assert np.array_equal(np.isinf(norms[NORMS_HEADER:]), np.arange(3) == place // 32)


def test_nan_payloads_and_signalling_nans(kernels):
    for bits_of_nan in (0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFC00000, 0x7FA00000):
        x = np.ones(40, dtype=np.float32)
        x.view(np.uint32)[7] = bits_of_nan
        check_values(kernels, [x], ["float32"], block_size=32, bits=4)
    for bits_of_nan in (0x7FF0000000000001, 0xFFF0000000000001, 0x7FF8000000000000, 0x7FFFFFFFFFFFFFFF):
        y = np.ones(40, dtype=np.float64)
        y.view(np.uint64)[7] = bits_of_nan
        check_values(kernels, [y], ["float64"], block_size=32, bits=4)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
@pytest.mark.parametrize("block_size", (1, 32))
def test_every_half_precision_number_encodes(kernels, dtype, block_size):
    patterns = ALL_16_BITS.view(floats.storage(dtype)).copy()
    check_values(kernels, [patterns], [dtype], block_size=block_size, bits=8)


def test_float64_rounds_to_nearest_even_and_overflows_to_infinity(kernels):
    halfway = [1 + 2**-24, 1 + 3 * 2**-24, 1 + 2**-24 + 2**-50, 2**-149 * 0.5, 2**-149 * 1.5, 2**-126 - 2**-150]
    edges = [3.4028235e38, 3.4028235677973366e38, 3.4028235677973362e38, 1e39, 1e308, 5e-324, 0.0, -0.0]
    x = np.array([sign * v for v in (*halfway, *edges) for sign in (1, -1)])
    check_values(kernels, [x], ["float64"], block_size=1, bits=16)
    check_values(kernels, [x], ["float64"], block_size=5, bits=16)


@pytest.mark.parametrize("dtype", floats.DTYPES)
@pytest.mark.parametrize("sign", (1, -1))
def test_decode_rounds_every_half_its_neighbours_and_the_midpoints(kernels, dtype, sign):
    """With one level and factor 1, a code of +-1 decodes to its norm: any float32 can be put through the rounding."""
    half = ALL_16_BITS[:0x7C01].view(np.float16).astype(np.float32)
    brain = floats.to_float32(ALL_16_BITS[:0x7F81])
    exact = np.concatenate([half, brain])
    with np.errstate(over="ignore"):
        middle = (exact[:-1].astype(np.float64) + exact[1:]) / 2
    values = np.abs(np.concatenate([exact, middle.astype(np.float32)]))
    norms = np.concatenate([values, np.nextafter(values, np.float32(np.inf)), np.nextafter(values, np.float32(0))])
    layout = layout_of([(dtype, norms.size)], 1, 16)
    agreed = np.concatenate([np.full(NORMS_HEADER, HEADER, np.float32), norms])
    words = np.full(layout.words_numel, sign, np.int32)
    expected = floats.from_float64(np.where(np.isinf(norms), np.nan, sign * norms.astype(np.float64)), dtype)
    out = np.zeros_like(expected)
    kernels.decode(layout, [out], words, agreed, kernel_cases.turn_of(32767), factor=1.0)
    assert_same_bits(out, expected, kernels.name)


# Halves of the last place of a float32, and what a float64 holds just beside them.
MIDDLES = [sign * (1 + half * 2.0**-24 + beside) for sign in (1, -1) for half in (0, 1, 3) for beside in (0, 2.0**-52)]


@pytest.mark.parametrize(
    "size", (1.0, 2.0**-20, 2.0**-125, 2.0**-126, 2.0**-127, 2.0**-160, 2.0**110, 2.0**111, 2.0**127)
)
@pytest.mark.parametrize("bits", (4, 6, 8, 16))
def test_decode_rounds_the_unit_as_the_specification_does_and_only_where_it_does(kernels, bits, size):
    layout = layout_of([(dtype, 700) for dtype in floats.DTYPES], 256, bits)
    tensors = [to_dtype(np.ones(700), dtype) for dtype in floats.DTYPES]
    sums = np.random.default_rng(bits).integers(-(1 << 31), 1 << 31, layout.words_numel).astype(np.int32)
    agreed = np.ones(layout.norms_numel, np.float32)
    for unit in (*MIDDLES, 1 - 2.0**-53, 1 - 2.0**-25 - 2.0**-53):
        arguments = {"size": max_lane_sum(bits), "factor": size * unit, "agreed": agreed, "sums": sums}
        check(kernels, layout, tensors, specification(layout, tensors, **arguments), **arguments)


def test_agreed_norms_larger_than_ones_own_infinite_or_zero(kernels):
    x = np.linspace(-1, 1, 32 * 6).astype(np.float32)
    layout = layout_of([("float32", x.size)], 32, 8)
    agreed = np.full(layout.norms_numel, HEADER, dtype=np.float32)
    agreed[NORMS_HEADER:] = [1, 1000, 3e38, np.inf, 0, 2.0**-149]
    check_values(kernels, [x], ["float32"], block_size=32, bits=8, agreed=agreed)


def test_blocks_with_infinite_or_zero_norm_send_zeros_over_what_was_there(kernels):
    layout = layout_of([("float16", 40), ("float32", 40)], 20, 4)
    tensors = [np.ones(40, np.float16), np.full(40, np.nan, np.float32)]
    norms = np.full(layout.norms_numel, np.inf, dtype=np.float32)
    norms[layout.norms_of(0)] = 0
    words = np.full(layout.words_numel, HEADER, dtype=np.int32)
    kernels.encode(layout, tensors, norms, words, kernel_cases.turn_of(1))
    assert words[0] == HEADER and not words[WORDS_HEADER:].any()


@pytest.mark.parametrize("name", kernel_cases.compiled.ISAS)
def test_a_caller_that_flushes_subnormals_gets_the_same_bits_and_keeps_its_setting(name):
    torch = pytest.importorskip("torch")
    kernels = kernel_cases.make(name)
    x = np.linspace(-1, 1, 64).astype(np.float32) * np.float32(2.0**-130)
    layout = layout_of([("float32", 64)], 32, 8)
    expected = specification(layout, [x], size=1, factor=1.0)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        check(kernels, layout, [x], expected, size=1, factor=1.0)
        assert float(torch.tensor([2.0**-130]) * 1) == 0
    finally:
        torch.set_flush_denormal(False)
