"""Random bits for stochastic rounding, as a pure function of (seed, step, tensor, rank, element).

Counter-based, so that they are the same whatever the thread count, the instruction set or the bucket plan, and a
run can be replayed. 16 bits per element: lanes 2p and 2p+1 of word j take the low and the high half of one hash

    hash(j; k0, k1):  z = j + k0;  z ^= z >> 16;  z *= 0x7feb352d
                      z ^= z >> 15;  z ^= k1;     z *= 0x846ca68b;  z ^= z >> 16        (all mod 2^32)

whose multipliers are those of the public-domain "lowbias32" finaliser, with a second key in its middle. Each pair p
of lanes has its own (k0, k1), drawn by the splitmix64 sequence from the tensor's key.
"""

from __future__ import annotations

import numpy as np

DITHER_BITS = 16
MAX_LANE_PAIRS = 8
_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix64(value: int) -> int:
    """The splitmix64 finaliser on one 64-bit integer."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def tensor_key(seed: int, step: int, tensor_id: int, rank: int) -> int:
    """The 64-bit key of one tensor in one step on one rank; each argument is taken mod 2^64."""
    key = 0
    for part in (seed, step, tensor_id, rank):
        key = mix64(((key ^ (part & _MASK64)) + _GOLDEN) & _MASK64)
    return key


def pair_keys(key: int) -> np.ndarray:
    """(k0, k1) for each pair of lanes: uint32 array of shape (8, 2)."""
    draws = [mix64((key + (pair + 1) * _GOLDEN) & _MASK64) for pair in range(MAX_LANE_PAIRS)]
    return np.array([(draw & 0xFFFFFFFF, draw >> 32) for draw in draws], dtype=np.uint32)


def hash32(counter: np.ndarray, k0: np.uint32, k1: np.uint32) -> np.ndarray:
    """The keyed hash above, on a uint32 array of counters."""
    z = counter + k0
    z ^= z >> np.uint32(16)
    z *= np.uint32(0x7FEB352D)
    z ^= z >> np.uint32(15)
    z ^= k1
    z *= np.uint32(0x846CA68B)
    z ^= z >> np.uint32(16)
    return z


def dither_planes(key: int, word_index: np.ndarray, lanes: int) -> np.ndarray:
    """Random integers in [0, 65536) for ``lanes`` lanes of the words ``word_index`` (uint32, shape (...,)).

    Returns int32 of shape (..., lanes, words) for word_index of shape (..., words).
    """
    keys = pair_keys(key)
    planes = np.empty((*word_index.shape[:-1], lanes, word_index.shape[-1]), dtype=np.int32)
    for pair in range((lanes + 1) // 2):
        bits = hash32(word_index, keys[pair, 0], keys[pair, 1])
        planes[..., 2 * pair, :] = bits & np.uint32(0xFFFF)
        if 2 * pair + 1 < lanes:
            planes[..., 2 * pair + 1, :] = bits >> np.uint32(16)
    return planes
