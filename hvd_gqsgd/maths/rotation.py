"""Randomised Hadamard rotation of blocks (papers.md section 8: DRIVE, EDEN, THC): y = H D x / d.

D flips signs at random, the same on every rank; H is the Hadamard matrix of size d, with H H = d. One large element
becomes d small ones, so the largest magnitude of a block, which sets its error, is about as small as it can be for the
block's length. It is linear: sums of rotated blocks are rotated sums, and one rotation back, x = D H y, is enough.
The factor is 1 / d and not 1 / sqrt(d), because powers of two are exact and nothing on the way outgrows max |x|.

A block whose length m is no power of two is rotated twice, at its front and at its back, d = the largest power of two
below m each time; both parts overlap, so every element meets every other. There H goes with 1 / sqrt(d), the rest of
the factor with all m elements alike.

Signs: element e of pass p (0 front, 1 back) of block b takes bit e % 32 of hash(((2 b + p) * ceil(block_size / 32)
+ e // 32); k0, k1), with the first pair of keys of the tensor (dither.py).
"""

from __future__ import annotations

import numpy as np

from hvd_gqsgd.maths import dither

#: Blocks are rotated in the first cache.
MAX_BLOCK_SIZE = 4096


def rotation_key(seed: int, tensor_id: int) -> int:
    """The key of one tensor's signs: the same on every rank and in every step."""
    return dither.tensor_key(seed, 0, tensor_id, dither.ROTATION)


def rotate(rows: np.ndarray, first_block: int, block_size: int, key: int) -> np.ndarray:
    """Blocks, one per row: float32 (blocks, m), m <= block_size; the first is number ``first_block`` of its tensor."""
    m, d = rows.shape[1], width_of(rows.shape[1])
    y = rows * np.float32(1 / d)
    y[:, :d] = _hadamard(_flip(y[:, :d], first_block, 0, block_size, key))
    if d < m:
        y[:, :d] *= root_of(d)
        y[:, m - d :] = _hadamard(_flip(y[:, m - d :], first_block, 1, block_size, key)) * root_of(d)
    return y


def unrotate(rows: np.ndarray, first_block: int, block_size: int, key: int) -> np.ndarray:
    """The inverse of ``rotate``; to float32's precision where m is no power of two."""
    m, d = rows.shape[1], width_of(rows.shape[1])
    x = rows.copy()
    if d < m:
        x[:, m - d :] = _flip(_hadamard(x[:, m - d :]) * root_of(d), first_block, 1, block_size, key)
    x[:, :d] = _hadamard(x[:, :d])
    if d < m:
        x[:, :d] *= root_of(d)
    x[:, :d] = _flip(x[:, :d], first_block, 0, block_size, key)
    return x * np.float32(d) if d < m else x


def width_of(m: int) -> int:
    """d: the largest power of two that is not above m > 0."""
    return 1 << (m.bit_length() - 1)


def root_of(d: int) -> np.float32:
    """The factor of each pass over a block that is no power of two."""
    return np.float32(1 / np.sqrt(d))


def squared_factor(m: int) -> int:
    """|x|^2 / |y|^2 of a block of m elements."""
    d = width_of(m)
    return d if d == m else d * d


def _hadamard(rows: np.ndarray) -> np.ndarray:
    """H times every row. The order of the butterflies, shortest first, is part of the specification."""
    blocks, d = rows.shape
    stride = 1
    while stride < d:
        pairs = rows.reshape(blocks, d // (2 * stride), 2, stride)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        # Noise on elements near the end of float32's range may lead past it.
        with np.errstate(over="ignore", invalid="ignore"):
            rows = np.stack([low + high, low - high], axis=2).reshape(blocks, d)
        stride *= 2
    return rows


def _flip(rows: np.ndarray, first_block: int, turn: int, block_size: int, key: int) -> np.ndarray:
    """Rows with the signs of their pass flipped."""
    blocks, d = rows.shape
    k0, k1 = dither.pair_keys(key)[0]
    per_pass = -(-block_size // 32)
    starts = (2 * (np.arange(blocks, dtype=np.uint64) + np.uint64(first_block)) + np.uint64(turn)) * np.uint64(per_pass)
    counters = (starts[:, None] + np.arange(-(-d // 32), dtype=np.uint64)).astype(np.uint32)
    hashed = dither.hash32(counters, k0, k1)[:, :, None] >> np.arange(32, dtype=np.uint32)
    signs = (hashed.reshape(blocks, -1)[:, :d] & np.uint32(1)) << np.uint32(31)
    return (np.ascontiguousarray(rows).view(np.uint32) ^ signs).view(np.float32)
