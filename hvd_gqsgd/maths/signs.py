"""Signs as bits, and the operator that merges them without bias: Marsit's, arXiv 2204.06787.

Bit 1 is x >= 0, so -0 is positive and NaN is not. Element k * 16 + j of a tile of 512 is bit k of word j of 16: words
that follow each other take elements that do, which is what vector units want. A last tile of r elements has
w = ceil(r / 32) words, and element k * w + j is bit k of word j; bits past the end are 0.

A worker with sign v* meets what m - 1 others came to, v, and hands on

    v (.) v* = (v & v*) | ((v ^ v*) & r),   P(r = 1) = (m - 1) / m where v* = 0, 1 / m where v* = 1

which is v* with probability 1 / m and v otherwise: after n workers each of them has decided with probability 1 / n,
and P(bit = 1) is the share of ones. Two aggregates, of a and of b workers, merge with b / (a + b) in place of 1 / m
(our own derivation; the paper's is b = 1), so any order and any tree of merges has this law.

Random bits are a pure function of (seed, step, tensor, m, word, bit), by the hash of maths.dither.
"""

from __future__ import annotations

import numpy as np

from hvd_gqsgd.maths import dither, lanes

TILE_WORDS = 16
TILE = 32 * TILE_WORDS
#: Binary digits of a probability.
DIGITS = 32


def count_words(numel: int) -> int:
    """Words of a tensor."""
    return lanes.words_for(numel, 1)


def pack(x: np.ndarray) -> np.ndarray:
    """The signs of x (numel,) of any float dtype: uint32 (count_words(numel),).

    >>> pack(np.array([1.0, -1.0, 0.0, -0.0, np.nan])).tolist()
    [13]
    """
    ones = (x >= 0).astype(np.int32)
    whole = x.size - x.size % TILE
    words = np.empty(count_words(x.size), dtype=np.uint32)
    words[: whole // 32] = lanes.pack(ones[:whole].reshape(-1, TILE), 1).view(np.uint32).reshape(-1)
    words[whole // 32 :] = lanes.pack(ones[whole:], 1).view(np.uint32)
    return words


def unpack(words: np.ndarray, numel: int) -> np.ndarray:
    """Undo ``pack``: bool (numel,), True where a bit is 1.

    >>> unpack(np.array([13], dtype=np.uint32), 5).tolist()
    [True, False, True, True, False]
    """
    whole = numel // TILE * TILE_WORDS
    return np.concatenate([_bits(words[:whole].reshape(-1, TILE_WORDS)), _bits(words[whole:])])[:numel]


def _bits(words: np.ndarray) -> np.ndarray:
    """Bits (tiles * words * 32,) of tiles (..., words) in the order of their elements."""
    shifts = np.arange(32, dtype=np.uint32)[:, None]
    return ((words[..., None, :] >> shifts) & np.uint32(1)).astype(bool).reshape(-1)


def bernoulli(key: int, index: np.ndarray, part: int, whole: int) -> np.ndarray:
    """Words whose bits are 1 with probability part / whole, to 2^-32; index: uint32 (words,), their numbers.

    A bit is U < p for a U whose binary digit number d is a bit of the word's hash with key number d. It is decided at
    the first digit where U and p differ, so most are after a few.
    """
    threshold = (part << DIGITS) // whole
    ones, open_ = np.zeros_like(index), np.full_like(index, 0xFFFFFFFF)
    for digit in range(DIGITS):
        if not (threshold << digit) & 0xFFFFFFFF or not open_.any():
            break
        k0, k1 = digit_keys(key, digit)
        h = dither.hash32(index, k0, k1)
        if threshold >> (DIGITS - 1 - digit) & 1:
            ones |= open_ & ~h
            open_ &= h
        else:
            open_ &= ~h
    return ones


def digit_keys(key: int, digit: int) -> tuple[np.uint32, np.uint32]:
    """(k0, k1) of one binary digit; those of the first eight are ``dither.pair_keys``."""
    draw = dither.draw(key, digit + 1)
    return np.uint32(draw & 0xFFFFFFFF), np.uint32(draw >> 32)


def merge(
    first: np.ndarray, second: np.ndarray, first_count: int, second_count: int, key: int, index: np.ndarray
) -> np.ndarray:
    """The signs of two aggregates of ``first_count`` and ``second_count`` workers, each at least 1: uint32 (words,).

    key, index: of the random bits, as in ``bernoulli``; no two merges of a tensor in one step may have the same key.
    """
    take_second = bernoulli(key, index, second_count, first_count + second_count)
    r = ~(take_second ^ second)
    return (first & second) | ((first ^ second) & r)


def merge_key(seed: int, step: int, tensor_id: int, hop: int) -> int:
    """The key of the merge that makes an aggregate of ``hop`` workers."""
    return dither.tensor_key(seed, step, tensor_id, hop)


def merge_rows(rows: np.ndarray, seed: int, step: int, tensor_id: int, first_word: int) -> np.ndarray:
    """One aggregate of the rows (n, words), uint32, in their order; first_word: number of the first in the tensor."""
    index = np.arange(first_word, first_word + rows.shape[1], dtype=np.uint64).astype(np.uint32)
    merged = rows[0].copy()
    for hop, row in enumerate(rows[1:], start=2):
        merged = merge(merged, row, hop - 1, 1, merge_key(seed, step, tensor_id, hop), index)
    return merged
