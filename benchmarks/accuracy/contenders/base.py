"""What contenders share: what they return, how bits are counted, stochastic rounding.

All bits are those of a ring all-reduce that would keep a link as busy. Of b bits per element its ranks receive
2 (n-1) / n * b, so whoever receives r bits per element by other means is counted with r * n / (2 (n-1)).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """mean: the mean gradient (d,), floats. bits: on the wire per element."""

    mean: np.ndarray
    bits: float


def as_ring(received_bits: float, n: int) -> float:
    """Bits per element of the ring all-reduce in which a rank receives ``received_bits`` per element."""
    return received_bits * n / (2 * (n - 1))


def max_lane_sum(bits: int) -> int:
    """Largest magnitude that a lane of ``bits`` bits carries: 2^(bits-1) - 1."""
    return (1 << (bits - 1)) - 1


def round_randomly(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """floor(x + u), u uniform in [0, 1): x on average. float32 in and out."""
    noise = rng.random(x.shape, dtype=np.float32)
    noise += x
    return np.floor(noise, out=noise)
