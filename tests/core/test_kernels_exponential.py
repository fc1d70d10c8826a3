"""Exponential levels: every implementation on the host gives the bits of the specification."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from hvd_gqsgd.kernels.layout import NORMS_HEADER
from hvd_gqsgd.maths import floats
from hvd_gqsgd.maths.dither import KINDS
from hvd_gqsgd.maths.exponential import MAX_BITS, MIN_BITS
from tests.core import kernel_cases
from tests.core.kernel_cases import HEADER, check, specification, to_dtype

BITS = range(MIN_BITS, MAX_BITS + 1)
ALL_16_BITS = np.arange(1 << 16, dtype=np.uint16)
SIZES = (2.0**-149, 2.0**-133, 2.0**-126, 2.0**-90, 2.0**-24, 1.0, 65504.0, 3e38)


@pytest.fixture(params=(*kernel_cases.compiled.ISAS, "reference"))
def kernels(request):
    """Those that two_phase may be given, on NumPy arrays."""
    return kernel_cases.make(request.param)


def layout_of(shapes, block_size, bits, rotated=False, dither="independent"):
    return kernel_cases.layout_of(shapes, block_size, bits, rotated, dither, levels="exponential")


@functools.cache
def case(block_size, bits, rotated, dither, feedback):
    """Every length in every dtype, and what is expected of it, worked out once for all implementations."""
    lengths = (0, 1, 2, 17, block_size - 1, block_size, block_size + 1, 3 * block_size + 7)
    layout = layout_of([(d, m) for m in lengths for d in floats.DTYPES], block_size, bits, rotated, dither)
    tensors = kernel_cases.gradients(layout, bits)
    residuals = kernel_cases.residuals(layout, bits) if feedback else ()
    arguments = {"size": 1, "factor": 1 / 3, "residuals": residuals}
    return layout, tensors, specification(layout, tensors, **arguments), arguments


@pytest.mark.parametrize("feedback", (False, True))
@pytest.mark.parametrize("rotated", (False, True))
@pytest.mark.parametrize("bits", BITS)
def test_all_lengths_and_dtypes(kernels, bits, rotated, feedback):
    for index, block_size in enumerate((1, 31, 256, 1000)):
        layout, tensors, expected, arguments = case(block_size, bits, rotated, KINDS[(bits + index) % 3], feedback)
        check(kernels, layout, tensors, expected, **arguments)


def check_values(kernels, tensors, dtypes, *, block_size, bits, agreed=None, factor=1.0):
    for rotated in (False, True):
        layout = layout_of([(d, t.size) for d, t in zip(dtypes, tensors, strict=True)], block_size, bits, rotated)
        for residuals in ((), [np.full(t.size, 1e-3, np.float32) for t in tensors]):
            arguments = {"size": 1, "factor": factor, "agreed": agreed, "residuals": residuals}
            check(kernels, layout, tensors, specification(layout, tensors, **arguments), **arguments)


@pytest.mark.parametrize("bits", (3, 8))
@pytest.mark.parametrize("size", SIZES)
def test_norms_from_the_smallest_to_the_largest_and_elements_far_below_them(kernels, size, bits):
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, 512) * 2.0 ** -rng.integers(0, 140, 512)
    x[[3, 300]], x[7:11] = (1, -1), (0.0, -0.0, 2.0**-126, 2.0**-149)
    check_values(kernels, [to_dtype(x * size, d) for d in floats.DTYPES], floats.DTYPES, block_size=256, bits=bits)


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
def test_every_half_precision_number_encodes(kernels, dtype):
    patterns = ALL_16_BITS.view(floats.storage(dtype)).copy()
    check_values(kernels, [patterns], [dtype], block_size=32, bits=8)


@pytest.mark.parametrize("bits", BITS)
def test_agreed_norms_larger_than_ones_own_smaller_infinite_or_zero(kernels, bits):
    x = np.linspace(-1, 1, 32 * 7).astype(np.float32)
    agreed = np.full(NORMS_HEADER + 7, HEADER, dtype=np.float32)
    agreed[NORMS_HEADER:] = [1, 1000, 3e38, np.inf, 0, 2.0**-149, 2.0**-100]
    check_values(kernels, [x], ["float32"], block_size=32, bits=bits, agreed=agreed)


@pytest.mark.parametrize("size", (1.0, 2.0**-20, 2.0**-126, 2.0**-127, 2.0**-160, 2.0**110, 2.0**127))
@pytest.mark.parametrize("bits", (3, 8))
def test_decode_takes_any_words_and_rounds_once(kernels, bits, size):
    layout = layout_of([(dtype, 700) for dtype in floats.DTYPES], 256, bits)
    tensors = [to_dtype(np.ones(700), dtype) for dtype in floats.DTYPES]
    sums = np.random.default_rng(bits).integers(-(1 << 31), 1 << 31, layout.words_numel).astype(np.int32)
    agreed = np.ones(layout.norms_numel, np.float32)
    for unit in (1.0, -1 / 3, 1 + 2.0**-24, 1 - 2.0**-25 - 2.0**-53):
        arguments = {"size": 1, "factor": size * unit, "agreed": agreed, "sums": sums}
        check(kernels, layout, tensors, specification(layout, tensors, **arguments), **arguments)


@functools.cache
def large(block_size, bits):
    layout = layout_of([("float32", 300_001), ("float16", 40_013), ("float64", 20_000)], block_size, bits)
    tensors = kernel_cases.gradients(layout)
    return layout, tensors, specification(layout, tensors, size=1, factor=0.5)


@pytest.mark.parametrize("name", kernel_cases.compiled.ISAS)
@pytest.mark.parametrize("threads", (1, 2, 3, 7))
def test_any_number_of_threads_gives_the_same_bits(name, threads):
    check(kernel_cases.make(name, threads), *large(256, 4), size=1, factor=0.5)


def test_a_block_larger_than_a_tile(kernels):
    for bits in (3, 8):
        check(kernels, *large(20_000, bits), size=1, factor=0.5)


def test_one_bad_element_makes_its_block_nan_and_leaves_its_residual(kernels):
    for bad in (np.nan, np.inf, -np.inf):
        x = np.linspace(-1, 1, 70)
        x[40] = bad
        check_values(kernels, [to_dtype(x, d) for d in floats.DTYPES], floats.DTYPES, block_size=32, bits=4)
