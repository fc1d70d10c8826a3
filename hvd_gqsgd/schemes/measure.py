"""What a finished exchange shows of its error, from norms and words alone.

A code is off by a variance of f (1 - f) levels, f its fraction between two levels; over all fractions that is 1/6, and
1/12 for rounding to nearest. The mean of n codes has 1/n of it, and half of that where dithers are drawn together
(dither.place_among); an odd n keeps 1 / 2n more. Exponential levels differ in size by what they encode, which norms do
not tell: the error is NaN.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hvd_gqsgd.kernels.layout import WORDS_HEADER, Layout
from hvd_gqsgd.maths import exponential, lanes, rotation
from hvd_gqsgd.maths.levels import count_levels

#: Blocks of each tensor that are looked at for the size of the mean.
SAMPLED_BLOCKS = 32


def variance_of_mean(kind: str, n: int) -> float:
    """Expected squared error of the mean of n codes, in levels.

    >>> variance_of_mean("independent", 4), variance_of_mean("correlated", 4)
    (0.041666666666666664, 0.020833333333333332)
    """
    if kind == "nearest":
        return 1 / (12 * n)
    return 1 / (6 * n) * (0.5 * (1 + n % 2 / n) if kind == "correlated" else 1.0)


class Measured(NamedTuple):
    """What a finished bucket shows. squared_error, squared_mean: estimates over all members, of the mean itself; NaN
    where levels do not tell the error.

    numel, word_bits: elements, and bits of the words that carried them; both 0 where that is not known.
    """

    squared_error: float
    squared_mean: float
    blocks: int
    nonfinite_blocks: int
    numel: int = 0
    word_bits: int = 0

    def plus(self, other: Measured) -> Measured:
        return Measured._make(own + others for own, others in zip(self, other, strict=True))


#: Of an exchange whose error is not known.
NOTHING = Measured(0.0, 0.0, 0, 0)


def measure(layout: Layout, norms: np.ndarray, words: np.ndarray, n: int, contributors: int) -> Measured:
    """Look at a bucket's reduced norms and words, float32 and int32 with their headers.

    n: ranks, as many as the levels are made for; contributors: those whose codes are in the sum.
    Whole blocks alone stand for their tensor, where it has one; of those, SAMPLED_BLOCKS evenly spaced ones.
    """
    error = mean = 0.0
    blocks = nonfinite = 0
    for index, member in enumerate(layout.members):
        own = norms[layout.norms_of(index)]
        blocks += own.size
        nonfinite += int(np.count_nonzero(np.isinf(own)))
        whole = max(1, member.numel // layout.block_size) if member.numel else 0
        if not whole:
            continue
        numel = min(layout.block_size, member.numel)
        width = lanes.words_for(numel, member.bits)
        every = -(-whole // SAMPLED_BLOCKS)
        packed = words[layout.words_of(index)][: whole * width].reshape(whole, width)[::every]
        levels = count_levels(member.bits, n)
        level = own[:whole:every].astype(np.float64) / levels
        finite = np.isfinite(level)
        sums = lanes.unpack(np.ascontiguousarray(packed), numel, member.bits)[finite]
        level = level[finite, None]
        if not level.size:
            continue
        factor = rotation.squared_factor(numel) if layout.rotated else 1
        share = factor * member.numel / (level.size * numel)
        error += share * float(np.sum(level**2)) * numel * variance_of_mean(layout.dither, max(1, contributors))
        if layout.levels == "exponential":
            sums, error = exponential.powers(sums, levels) * levels, math.nan
        mean += share * float(np.sum((sums / max(1, contributors) * level) ** 2))
    numel, words_numel = sum(member.numel for member in layout.members), layout.words_numel - WORDS_HEADER
    return Measured(error, mean, blocks, nonfinite, numel, 32 * words_numel)
