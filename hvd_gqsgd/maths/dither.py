"""Random bits for stochastic rounding, as a pure function of (seed, step, tensor, rank, number of ranks, element).

Counter-based, so that they are the same whatever the thread count, the instruction set or the bucket plan, and a
run can be replayed. 16 bits per element: lanes 2p and 2p+1 of word j take the low and the high half of one hash

    hash(j; k0, k1):  z = j + k0;  z ^= z >> 16;  z *= 0x7feb352d
                      z ^= z >> 15;  z ^= k1;     z *= 0x846ca68b;  z ^= z >> 16        (all mod 2^32)

whose multipliers are those of the public-domain "lowbias32" finaliser, with a second key in its middle. Each pair p
of lanes has its own (k0, k1), drawn by the splitmix64 sequence from the tensor's key.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

DITHER_BITS = 16
# A level in the fixed point of the dither.
ONE = 1 << DITHER_BITS
KINDS = ("independent", "correlated", "nearest")
# In place of a rank in a key: what all ranks draw alike, for the dither and for the rotation.
SHARED = (1 << 64) - 1
ROTATION = (1 << 64) - 2
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


def draw(key: int, number: int) -> int:
    """Number ``number`` >= 1 of the splitmix64 sequence that ``key`` starts: 64 bits."""
    return mix64((key + number * _GOLDEN) & _MASK64)


def pair_keys(key: int) -> np.ndarray:
    """(k0, k1) for each pair of lanes: uint32 array of shape (8, 2)."""
    draws = [draw(key, pair + 1) for pair in range(MAX_LANE_PAIRS)]
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


class Turn(NamedTuple):
    """One rank's part in one step: what dither and rotation are drawn from. In a graph, numbers but seed are tensors.

    summands: ranks whose codes a lane has to hold the sum of; None for all ``size``.
    """

    seed: int
    step: Any
    rank: Any
    size: Any
    summands: Any = None

    @property
    def summed(self) -> Any:
        return self.size if self.summands is None else self.summands


class Dither(NamedTuple):
    """Random integers r = (((h + shift) mod 2^16) & keep) ^ flip, h the hash of ``key``: what is added before floor.

    h is uniform on the 2^16 numbers, so r is too, unless ``keep`` is 0 and every r is ``flip``.
    """

    key: int
    shift: int = 0
    keep: int = 0xFFFF
    flip: int = 0


def dither_of(kind: str, turn: Turn, tensor_id: int) -> Dither:
    """The dither of one tensor: ``kind`` of KINDS.

    independent  every rank draws for itself
    correlated   all ranks share h and each takes its own place among them: see ``place_among``
    nearest      none: half a level is added, which rounds to nearest and is not unbiased
    """
    if kind == "nearest":
        return Dither(0, keep=0, flip=ONE // 2)
    if kind == "independent":
        return Dither(tensor_key(turn.seed, turn.step, tensor_id, turn.rank))
    key = tensor_key(turn.seed, turn.step, tensor_id, SHARED)
    return Dither(key, *place_among(turn.size, position(key, turn.size, turn.rank)))


def position(key: int, n: int, rank: int) -> int:
    """The place of ``rank`` in a random order of ``n`` ranks: how many others have drawn a smaller number."""
    own = _draw_of_rank(key, rank)
    return sum(_draw_of_rank(key, other) < own for other in range(n))


def _draw_of_rank(key: int, rank: int) -> int:
    return draw(key, MAX_LANE_PAIRS + 1 + rank)


def place_among(n: int, place: int) -> tuple[int, int, int]:
    """(shift, keep, flip) of place number ``place`` among ``n``, for one h that all of them share.

    With u = h / 2^16, the n dithers of an element are u + k / m for k < m = n / 2 and 1 minus each of these: every m-th
    part of [0, 1) holds two of them, and their sum is always n / 2. So n equal elements come to floor or ceil of their
    sum, and of elements whose fractions have nothing in common the sum has half the variance that independent dithers
    give it, which is the least that n dithers, each uniform by itself, can reach. An odd n has n shifts and no mirror.
    """
    if n % 2:
        return place * ONE // n, 0xFFFF, 0
    return (place // 2) * ONE // (n // 2), 0xFFFF, 0xFFFF * (place % 2)


def dither_planes(dither: Dither, word_index: np.ndarray, lanes: int) -> np.ndarray:
    """Random integers in [0, 65536) for ``lanes`` lanes of the words ``word_index`` (uint32, shape (...,)).

    Returns int32 of shape (..., lanes, words) for word_index of shape (..., words).
    """
    keys = pair_keys(dither.key)
    planes = np.empty((*word_index.shape[:-1], lanes, word_index.shape[-1]), dtype=np.int32)
    for pair in range((lanes + 1) // 2):
        bits = hash32(word_index, keys[pair, 0], keys[pair, 1])
        planes[..., 2 * pair, :] = bits & np.uint32(0xFFFF)
        if 2 * pair + 1 < lanes:
            planes[..., 2 * pair + 1, :] = bits >> np.uint32(16)
    return (((planes + np.int32(dither.shift)) & np.int32(0xFFFF)) & np.int32(dither.keep)) ^ np.int32(dither.flip)
