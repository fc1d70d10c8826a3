"""Global-QSGD with exponential dithering as published (arXiv 2305.18627; papers.md 1.3): a byte is a sign and 2^-e.

A code is kept as exponent and sign: e in 1..127 and s in {-1, 1} stand for s 2^-e. Zero, the published code 0, is an
exponent here that is too far from all others to change them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate
from benchmarks.accuracy.gradients import Gradients

LARGEST_EXPONENT = 127
ZERO = 512
HALVES = np.ldexp(1.0, -np.arange(ZERO + 1)).astype(np.float32)


class Codes(NamedTuple):
    """exponents: int16, 1..127 or ZERO. signs: int16, 1 or -1."""

    exponents: np.ndarray
    signs: np.ndarray

    def values(self) -> np.ndarray:
        return self.signs * HALVES[self.exponents]


def compress(v: np.ndarray, rng: np.random.Generator) -> Codes:
    """float32 v, |v| <= 1 / 2, to the powers of two on either side of it: v on average.

    |v| = m 2^E, m in [1/2, 1), goes up to 2^E with probability 2 m - 1, else down to 2^(E-1).
    """
    mantissa, exponent = np.frexp(np.abs(v))
    exponent -= rng.random(v.shape, dtype=np.float32) >= 2 * mantissa - 1
    exponents = np.clip(-exponent, 1, LARGEST_EXPONENT).astype(np.int16)
    exponents[v == 0] = ZERO
    return Codes(exponents, np.where(v < 0, np.int16(-1), np.int16(1)))


def reduce(a: Codes, b: Codes, rng: np.random.Generator) -> Codes:
    """One code whose value is a's plus b's on average. With D = e2 - e1 >= 0 and a the larger,

    same signs      e1 - 1 with probability 2^-D, else e1
    opposite signs  zero if D = 0; else e1 + 1 with probability 2^-(D-1), else e1
    """
    larger = np.minimum(a.exponents, b.exponents)
    distance = np.abs(a.exponents - b.exponents)
    same = a.signs == b.signs
    bump = rng.random(larger.shape, dtype=np.float32) < HALVES[np.maximum(distance - ~same, 0)]
    exponents = larger + np.where(same, -bump.view(np.int8), bump.view(np.int8))
    exponents[(~same & (distance == 0)) | (exponents > LARGEST_EXPONENT)] = ZERO
    return Codes(exponents, np.where(a.exponents <= b.exponents, a.signs, b.signs))


def exponential(gradients: Gradients, rng: np.random.Generator) -> Estimate:
    """8 bits; a tree in which every node rounds again. n is a power of two, so that 1 / (2 n G) leaves it its headroom.

    Counted as the 8 bits of a ring, though the root of a tree receives more.
    """
    n = gradients.n
    assert n & (n - 1) == 0, f"a tree of powers of two, got {n} workers"
    scale = np.float32(1 / (2 * n)) / gradients.largest
    waiting: list[tuple[int, Codes]] = []
    for worker in gradients.workers:
        merged, size = compress(worker * scale, rng), 1
        while waiting and waiting[-1][0] == size:
            merged, size = reduce(waiting.pop()[1], merged, rng), 2 * size
        waiting.append((size, merged))
    return Estimate(waiting[0][1].values().astype(np.float64) * (2 * float(gradients.largest)), 8)
