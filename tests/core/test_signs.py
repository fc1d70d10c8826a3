"""Signs as bits: the layout, the law of the merge in any order and any tree, and every implementation to the bit."""

import itertools

import numpy as np
import pytest

from hvd_gqsgd.errors import KernelsMissingError
from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.kernels import signs as sign_kernels
from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.signs import CompiledSigns, ReferenceSigns
from hvd_gqsgd.maths import dither, floats, signs
from tests.core import kernel_cases

LENGTHS = (0, 1, 2, 31, 32, 33, 100, 511, 512, 513, 1024, 1031, 5000)
WORDS = 4000
GUARD = 7


@pytest.fixture(params=[(name, threads) for name in compiled.ISAS for threads in (1, 3)], ids=str)
def fast(request):
    name, threads = request.param
    return sign_kernels.beside(kernel_cases.make(name, threads))


@pytest.mark.parametrize("numel", LENGTHS)
def test_unpack_undoes_pack_and_bits_past_the_end_are_zero(numel):
    x = np.random.default_rng(numel).standard_normal(numel).astype(np.float32)
    words = signs.pack(x)
    assert words.shape == (-(-numel // 32),)
    np.testing.assert_array_equal(signs.unpack(words, numel), x >= 0)
    assert sum(bin(word).count("1") for word in words.tolist()) == np.count_nonzero(x >= 0)


def test_where_an_element_lies():
    for element, word, bit in (
        (0, 0, 0),
        (15, 15, 0),
        (16, 0, 1),
        (511, 15, 31),
        (512, 16, 0),
        (516, 16, 1),
        (611, 19, 24),
    ):
        x = np.full(612, -1.0)
        x[element] = 1
        words = signs.pack(x)
        assert words[word] == 1 << bit
        assert np.count_nonzero(words) == 1


def test_zeros_are_positive_and_nan_is_not():
    assert signs.unpack(signs.pack(np.array([0.0, -0.0, np.nan, np.inf, -np.inf])), 5).tolist() == [1, 1, 0, 1, 0]


@pytest.mark.parametrize(("part", "whole"), [(1, 2), (1, 3), (2, 3), (1, 8), (7, 8), (5, 13), (1, 1000)])
def test_random_bits_have_their_probability_and_are_independent(part, whole):
    index = np.arange(WORDS, dtype=np.uint32)
    draws = [_as_bits(signs.bernoulli(key, index, part, whole)) for key in (1, 2)]
    p, count = part / whole, 32 * WORDS
    for bits in draws:
        assert abs(bits.mean() - p) < 5 * np.sqrt(p * (1 - p) / count)
    # Between keys, neighbouring words and neighbouring bits.
    words = draws[0].reshape(WORDS, 32)
    pairs = [(draws[0], draws[1]), (words[1:], words[:-1]), (words[:, 1:], words[:, :-1])]
    for a, b in pairs:
        assert abs((a & b).mean() - p * p) < 5 * np.sqrt(p * p * (1 - p * p) / a.size) + 1e-9


def _as_bits(words):
    return signs.unpack(words, 32 * words.size)


def _ring(rows, keys):
    merged = rows[0]
    for hop, row in enumerate(rows[1:], start=2):
        merged = signs.merge(merged, row, hop - 1, 1, next(keys), np.arange(merged.size, dtype=np.uint32))
    return merged


def _tree(rows, keys):
    """Neighbours first: aggregates of equal size, but for what an odd number leaves."""
    parts = [(row, 1) for row in rows]
    while len(parts) > 1:
        pairs = [_merged(a, b, keys) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[2 * len(pairs) :]
    return parts[0][0]


def _uneven(rows, keys):
    """Two aggregates of a third and of the rest, the larger one second."""
    third = max(1, len(rows) // 3)
    return _merged((_ring(rows[:third], keys), third), (_ring(rows[third:], keys), len(rows) - third), keys)[0]


def _merged(a, b, keys):
    index = np.arange(a[0].size, dtype=np.uint32)
    return signs.merge(a[0], b[0], a[1], b[1], next(keys), index), a[1] + b[1]


def _keys(seed=0):
    return (signs.merge_key(seed, 0, 5, hop) for hop in itertools.count(2))


@pytest.mark.parametrize("order", [_ring, _tree, _uneven])
@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_a_merged_bit_is_one_as_often_as_ranks_say_so(n, order):
    count = 32 * WORDS
    for ones in sorted({0, 1, n // 2, n - 1, n}):
        # Whoever says one is in the front, and then in the back: a wrong weight favours one of them.
        for first in (0, n - ones):
            rows = [np.full(WORDS, 0xFFFFFFFF if first <= i < first + ones else 0, dtype=np.uint32) for i in range(n)]
            share = _as_bits(order(rows, _keys(first))).mean()
            p = ones / n
            assert abs(share - p) <= 5 * np.sqrt(p * (1 - p) / count), (ones, first)


def test_the_operator_is_the_papers():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 1 << 32, (2, WORDS), dtype=np.uint32)
    index, key = np.arange(WORDS, dtype=np.uint32), 77
    for m in (2, 5):
        merged = signs.merge(first, second, m - 1, 1, key, index)
        np.testing.assert_array_equal(merged & ~(first ^ second), first & second)
        incoming, local, out = _as_bits(first), _as_bits(second), _as_bits(merged)
        # r is what comes out where they differ: P(r = 1) = (m - 1) / m where v* = 0, and 1 / m where v* = 1.
        for bit, p in ((0, (m - 1) / m), (1, 1 / m)):
            here = (incoming != local) & (local == bit)
            assert abs(out[here].mean() - p) < 5 * np.sqrt(p * (1 - p) / here.sum())


def test_the_merge_of_rows_is_the_ring_in_their_order():
    rows = np.random.default_rng(1).integers(0, 1 << 32, (5, 100), dtype=np.uint32)
    expected = _ring(list(rows), (signs.merge_key(3, 4, 5, hop) for hop in itertools.count(2)))
    np.testing.assert_array_equal(signs.merge_rows(rows, 3, 4, 5, 0), expected)
    # A part is merged as it is in the whole, and by nothing but its place.
    np.testing.assert_array_equal(signs.merge_rows(rows[:, 30:50], 3, 4, 5, 30), expected[30:50])
    for other in ((2, 4, 5), (3, 5, 5), (3, 4, 6)):
        assert np.any(signs.merge_rows(rows, *other, 0) != expected)


def test_random_bits_stay_what_they_are():
    """A run can be replayed by a later version; these were computed with this one."""
    assert dither.draw(1, 1) == dither.mix64(1 + 0x9E3779B97F4A7C15)
    index = np.arange(2, dtype=np.uint32)
    assert signs.bernoulli(signs.merge_key(1, 2, 3, 3), index, 1, 3).tolist() == [574129258, 189805056]


@pytest.mark.parametrize("dtype", floats.DTYPES)
def test_compiled_kernels_give_the_bits_of_the_specification(fast, dtype):
    for numel in (*LENGTHS, 200_001):
        check_elements(fast, numel, dtype)


def check_elements(fast, numel, dtype):
    rng, slow = np.random.default_rng(numel), ReferenceSigns()
    x = kernel_cases.to_dtype(rng.standard_normal(numel) * 10.0 ** rng.integers(-6, 3, numel), dtype)
    compensation = rng.standard_normal(numel).astype(np.float32)
    results = []
    for kernels in (slow, fast):
        words = np.full(signs.count_words(numel) + GUARD, -1, dtype=np.int32)
        kernels.pack(x, compensation, words[:-GUARD])
        kept, out = np.full(numel + GUARD, 7, dtype=np.float32), np.full(numel + GUARD, 7, dtype=x.dtype)
        kept[:-GUARD] = compensation
        kernels.compensate(x, kept[:-GUARD], words[:-GUARD], 0.3)
        kernels.expand(words[:-GUARD], 1e-5, out[:-GUARD])
        results.append((words, kept, out))
    for expected, got in zip(*results, strict=True):
        kernel_cases.assert_same_bits(got, expected, "signs")


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_compiled_merges_give_the_bits_of_the_specification(fast, n):
    for count in (0, 1, 7, 8, 9, 16, 40, 1000, 6000):
        check_merge(fast, n, count)


def check_merge(fast, n, count):
    # Rows further apart than they are long, as parts of tensors in a share are; words that start late, past 2^32 too.
    rows = np.random.default_rng(n).integers(-(1 << 31), 1 << 31, (n, count + GUARD)).astype(np.int32)[:, :count]
    results = []
    for kernels in (ReferenceSigns(), fast):
        merged = np.full(count + GUARD, -1, dtype=np.int32)
        kernels.merge(rows, merged[:-GUARD], seed=3, step=9, tensor_id=(1 << 63) + 5, first_word=(1 << 32) - 5)
        results.append(merged)
    np.testing.assert_array_equal(*results)


def test_the_same_choice_as_of_the_other_kernels():
    assert isinstance(sign_kernels.beside(kernel_cases.make("reference")), ReferenceSigns)
    assert isinstance(sign_kernels.beside(kernel_cases.make("baseline")), CompiledSigns)

    class Others(Kernels):
        name = "others"
        block_norms = encode = decode = None

    with pytest.raises(KernelsMissingError, match=r"'others' have no sign kernels; expected.*select\(\)"):
        sign_kernels.beside(Others())
