"""Codes packed into int32 words: word = sum_k q_k * 2^(bits*k) mod 2^32, the codes signed.

Because the codes are signed two's complement numbers, adding words adds codes lane by lane, exactly, in any
order, and a word of zeros adds nothing (``hvd.join`` contributes zeros). Lanes are planar: a block of m elements
takes W = ceil(m / K) words, K = 32 // bits, and element i sits in lane i // W of word i % W. So consecutive
words take consecutive elements, which is what vector units want; slots past the end hold code 0.
"""

from __future__ import annotations

import numpy as np


def lanes_per_word(bits: int) -> int:
    """K = 32 // bits lanes in one int32 word."""
    return 32 // bits


def words_for(numel: int, bits: int) -> int:
    """Words that a block of ``numel`` elements takes."""
    return -(-numel // lanes_per_word(bits))


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes (..., m) of one block per row, any signed dtype, into int32 words (..., ceil(m / K)).

    >>> unpack(pack(np.array([5, -7]), 8) + pack(np.array([-6, 9]), 8), 2, 8).tolist()
    [-1, 2]
    """
    lanes, words = lanes_per_word(bits), words_for(codes.shape[-1], bits)
    padded = np.zeros((*codes.shape[:-1], lanes * words), dtype=np.int32)
    padded[..., : codes.shape[-1]] = codes
    planes = padded.reshape(*codes.shape[:-1], lanes, words).view(np.uint32)
    shifts = (np.arange(lanes, dtype=np.uint32) * np.uint32(bits))[:, None]
    return np.add.reduce(planes << shifts, axis=-2, dtype=np.uint32).view(np.int32)


def unpack(words: np.ndarray, numel: int, bits: int) -> np.ndarray:
    """Undo ``pack`` on words or on sums of words: int32 lane values (..., numel).

    Adding 2^(bits-1) to every lane first makes all of them non-negative, so that no lane borrows from the next.
    """
    lanes = lanes_per_word(bits)
    half = np.uint32(1 << (bits - 1))
    shifts = np.arange(lanes, dtype=np.uint32) * np.uint32(bits)
    bias = np.add.reduce(half << shifts, dtype=np.uint32)
    mask = np.uint32((1 << bits) - 1)
    planes = ((words.view(np.uint32) + bias)[..., None, :] >> shifts[:, None]) & mask
    values = planes.astype(np.int32) - np.int32(half)
    return values.reshape(*words.shape[:-1], -1)[..., :numel]
