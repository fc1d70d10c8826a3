"""Every implementation gives the bits of the specification, for all shapes."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths import floats
from hvd_gqsgd.maths.dither import KINDS
from hvd_gqsgd.maths.levels import MAX_BITS, MIN_BITS, max_lane_sum
from tests.core import kernel_cases
from tests.core.kernel_cases import check, check_case, layout_of

BITS = range(MIN_BITS, MAX_BITS + 1)
BLOCK_SIZES = (1, 3, 32, 256, 1000)


def lengths(block_size: int) -> list[int]:
    return [0, 1, 2, 3, 17, block_size - 1, block_size, block_size + 1, 4 * block_size, 5 * block_size + 7]


def mixed(block_size: int) -> list[tuple[str, int]]:
    """One bucket with every length in every dtype."""
    return [(dtype, numel) for numel in lengths(block_size) for dtype in floats.DTYPES]


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("bits", BITS)
def test_a_bucket_of_all_lengths_and_dtypes(kernels, bits, block_size):
    check_case(kernels, mixed(block_size), block_size, bits, size=1, factor=0.125)


@pytest.mark.parametrize("bits", (2, 3, 5, 8, 16))
def test_a_block_larger_than_a_tile(kernels, bits):
    shapes = [(dtype, numel) for dtype in floats.DTYPES for numel in (20_000, 40_013)]
    check_case(kernels, shapes, 20_000, bits, size=1, factor=1 / 3)


@pytest.mark.parametrize("bits", (3, 8))
def test_one_huge_tensor(kernels, bits):
    check_case(kernels, [("float32", 3_000_017)], 256, bits, size=3, factor=0.5)


@pytest.mark.parametrize("name", kernel_cases.compiled.ISAS)
@pytest.mark.parametrize("threads", (1, 2, 3, 7))
def test_any_number_of_threads_gives_the_same_bits(name, threads):
    kernels = kernel_cases.make(name, threads)
    check_case(kernels, [("float32", 3_000_017)], 256, 8, size=11, factor=0.5)
    # Many small tensors, large enough together for all threads.
    many = [(floats.DTYPES[index % 4], 1 + 37 * index) for index in range(180)]
    check_case(kernels, many, 256, 8, size=11, factor=0.5)


@pytest.mark.parametrize("name", kernel_cases.compiled.ISAS)
def test_the_number_of_threads_may_change_between_calls(name):
    numbers = itertools.cycle([1, 2, 3, 5, 7])
    kernels = kernel_cases.make(name, numbers.__next__)
    for _ in range(4):
        check_case(kernels, [("float32", 300_001)], 256, 8, size=11, factor=0.5)


def test_an_empty_bucket_and_a_bucket_of_empty_tensors(kernels):
    check_case(kernels, [], 256, 8, size=127, factor=1.0)
    check_case(kernels, [(dtype, 0) for dtype in floats.DTYPES], 256, 8, size=127, factor=1.0)


@pytest.mark.parametrize("dtype", floats.DTYPES)
def test_decode_may_write_into_the_tensor_that_was_encoded(kernels, dtype):
    layout, tensors, expected = kernel_cases.case(((dtype, 1000),), 256, 8, 3, 0.5)
    tensor, norms, words = tensors[0].copy(), expected.norms.copy(), expected.words.copy()
    kernels.encode(layout, [tensor], norms, words, kernel_cases.turn_of(3))
    kernels.decode(layout, [tensor], words, norms, kernel_cases.turn_of(3), factor=0.5)
    kernel_cases.assert_same_bits(tensor, expected.outs[0], kernels.name)


def test_every_argument_of_the_key_changes_the_codes(kernels):
    layout, tensors, expected = kernel_cases.case((("float32", 1000),), 256, 8, 3, 0.5)
    seen = set()
    for change in ({}, {"seed": 1}, {"step": 1}, {"rank": 1}, {"seed": 1 << 63}, {"step": 1 << 21}):
        words = np.zeros(layout.words_numel, dtype=np.int32)
        kernels.encode(layout, tensors, expected.norms, words, kernel_cases.turn_of(3, **change))
        seen.add(words.tobytes())
    assert len(seen) == 6


@pytest.mark.parametrize("bits", BITS)
def test_decode_takes_sums_of_words(kernels, bits):
    layout, tensors, expected = kernel_cases.case(tuple(mixed(32)), 32, bits, 1, 1.0)
    # Any bits are a sum of some codes as far as decode can tell.
    sums = np.random.default_rng(bits).integers(-(1 << 31), 1 << 31, layout.words_numel).astype(np.int32)
    arguments = {"size": 1, "factor": 0.2, "agreed": expected.norms, "sums": sums}
    summed = kernel_cases.specification(layout, tensors, **arguments)
    check(kernels, layout, tensors, summed, **arguments)


@st.composite
def buckets(draw):
    bits = draw(st.integers(MIN_BITS, MAX_BITS))
    shapes = draw(st.lists(st.tuples(st.sampled_from(floats.DTYPES), st.integers(0, 700)), max_size=6))
    rotated, kind = draw(st.booleans()), draw(st.sampled_from(KINDS))
    layout = layout_of(shapes, draw(st.integers(1, 400)), bits, rotated, kind)
    return layout, draw(st.integers(1, max_lane_sum(bits))), draw(st.floats(2**-20, 4, width=32))


@given(bucket=buckets(), feedback=st.booleans(), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bucket(kernels, bucket, feedback, seed):
    layout, size, factor = bucket
    tensors = kernel_cases.gradients(layout, seed)
    residuals = kernel_cases.residuals(layout, seed) if feedback else ()
    arguments = {"size": size, "factor": factor, "residuals": residuals}
    check(kernels, layout, tensors, kernel_cases.specification(layout, tensors, **arguments), **arguments)


@pytest.mark.parametrize("feedback", (False, True))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_size", (1, 4, 31, 64, 256, 1000, 1024, 4096))
def test_rotated_blocks_of_all_lengths_and_dtypes(kernels, block_size, kind, feedback):
    for bits in (2, 5, 8, 16):
        layout = layout_of(mixed(block_size), block_size, bits, True, kind)
        tensors = kernel_cases.gradients(layout, bits)
        residuals = kernel_cases.residuals(layout, bits) if feedback else ()
        arguments = {"size": 1 if bits == 2 else 7 if bits == 5 else 20, "factor": 1 / 3, "residuals": residuals}
        check(kernels, layout, tensors, _specification(layout, tensors, arguments), **arguments)


@functools.lru_cache(maxsize=1024)
def _remembered(key):
    return kernel_cases.specification(*_ARGUMENTS[key][:2], **_ARGUMENTS[key][2])


_ARGUMENTS: dict = {}


def _specification(layout, tensors, arguments):
    """The specification, worked out once for all implementations."""
    key = (layout, arguments["size"], bool(arguments["residuals"]))
    _ARGUMENTS.setdefault(key, (layout, tensors, arguments))
    return _remembered(key)


def test_members_of_one_bucket_may_have_lanes_of_their_own(kernels):
    members = layout_of([(floats.DTYPES[i % 4], 700 + i) for i in range(15)], 256, 8).members
    members = tuple(dataclasses.replace(m, bits=bits) for m, bits in zip(members, BITS, strict=True))
    layout = Layout(members=members, block_size=256, rotated=True, dither="correlated")
    tensors = kernel_cases.gradients(layout)
    arguments = {"size": 1, "factor": 0.5}
    check(kernels, layout, tensors, kernel_cases.specification(layout, tensors, **arguments), **arguments)
