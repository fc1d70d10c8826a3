"""Levels that are powers of two: the exponential dithering of Global-QSGD (arXiv 2305.18627; papers.md 1.3).

A code q = +-m, m in 1..s, stands for +-2^(m - s) * M, and 0 for zero: s = 2^(bits - 1) - 1 levels, the last of which
is the block's norm M and each of which is half of the next. An element between two levels goes to either, so that it
is itself on average; its variance is then at most 1/8 of its square, however small it is beside M, down to the smallest
level t = 2^(1 - s) * M. Elements below that go to t or to zero, with a variance of |x| * (t - |x|). Zeros stay zero.

Here are the two steps in which these codes differ from those of ``quantize``, which does everything else, and the sum
of two codes that the paper's own reduction takes at every hop.
"""

from __future__ import annotations

import numpy as np

from hvd_gqsgd.maths.dither import DITHER_BITS, ONE

#: Of 2 bits the one level is M itself, and past 8 bits levels are no float32 numbers any more.
MIN_BITS = 3
MAX_BITS = 8

_MANTISSA_BITS = 23
_EXPONENT_OF_ONE = 127


def codes(rows: np.ndarray, norms: np.ndarray, levels: int, noise: np.ndarray) -> np.ndarray:
    """q with E[2^(|q| - s)] = |x| / M, s = ``levels`` <= 127, to 2^-16 of a level: int32 (blocks, m) in -s..s.

    rows: float32 (blocks, m); norms: float32 (blocks,), positive and finite; noise: int32 (blocks, m), the dither's
    integers r in [0, 2^16).

    y = |x| / M is a mantissa in [1, 2) and an exponent. r, brought to the mantissa's 23 bits and added to it, carries
    into the exponent as often as y has come of its way to the next power of two. Below the smallest level t, y + t does
    the same: there the mantissa is 1 + y / t. A negative x takes 2^16 - 1 - r, as floor(x + u) would: errors that ranks
    draw together to cancel do so for either sign.
    """
    smallest = np.float32(2.0 ** (1 - levels))
    with np.errstate(over="ignore"):
        y = np.abs(rows) / norms[:, None]
    below = y < smallest
    bits = np.where(below, y + smallest, y).view(np.int32)
    negative = np.signbit(rows)
    carried = bits + (np.where(negative, ONE - 1 - noise, noise) << (_MANTISSA_BITS - DITHER_BITS))
    first = _EXPONENT_OF_ONE - levels
    sizes = np.minimum((carried >> _MANTISSA_BITS) - np.where(below, first + 1, first), levels)
    return np.where(negative, -sizes, sizes).astype(np.int32)


def powers(codes: np.ndarray, levels: int) -> np.ndarray:
    """What codes stand for in units of M: sign(q) * 2^(|q| - s), float64, exact."""
    return np.ldexp(np.sign(codes).astype(np.float64), np.abs(codes) - levels)


def reduce_codes(a: np.ndarray, b: np.ndarray, u: np.ndarray, levels: int) -> np.ndarray:
    """One code for the sum of two, right on average: what the paper's reduction does at every hop (papers.md 1.3).

    a, b: codes under one norm, any signed dtype; u: uniform in [0, 1), of their shape; returns codes of a's dtype. With
    m the larger of both sizes and D the distance to the other,

        same signs      m + 1 with probability 2^-D, else m
        opposite signs  0 where D = 0; else m - 1 with probability 2^-(D - 1), else m

    and the sign of the larger; 0 and a code are that code. m - 1 is never below the other size, so nothing falls out at
    the lower end. At the upper end the sum stays at ``levels``, where the published code wraps to zero: such sums are
    too small on average, so leave ``headroom``.
    """
    size_a, size_b = np.abs(a.astype(np.int64)), np.abs(b.astype(np.int64))
    larger, smaller = np.maximum(size_a, size_b), np.minimum(size_a, size_b)
    same = (a < 0) == (b < 0)
    moves = u < np.ldexp(1.0, smaller - larger + ~same)
    sizes = np.where(same, np.minimum(larger + moves, levels), larger - moves)
    sizes = np.where(~same & (size_a == size_b), 0, sizes)
    signs = np.where(size_a >= size_b, np.sign(a), np.sign(b))
    return (np.where(smaller == 0, larger, sizes) * signs).astype(a.dtype)


def headroom(n: int) -> int:
    """Levels to leave free at the top, where n codes are added up in a tree: 1 + ceil(log2 n), as the paper's 2 n G.

    Encode with the norm M * 2^headroom. A sum in a tree moves up by a level at each of ceil(log2 n) hops at most, so it
    does not come to the last level. One after the other, as in a ring, n codes can move up by n - 1: seldom, but then
    they do saturate.

    >>> headroom(1), headroom(8), headroom(13)
    (1, 4, 5)
    """
    return 1 + (n - 1).bit_length()
