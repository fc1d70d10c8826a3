"""Global-QSGD with standard dithering as published (arXiv 2305.18627; papers.md 1.2)."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate, max_lane_sum, round_randomly
from benchmarks.accuracy.gradients import Gradients


def standard(gradients: Gradients, rng: np.random.Generator, *, bits: int) -> Estimate:
    """G / (L n) * sum_i floor(x_i L / G + u), G = max_i max_j |x_ij| over everything.

    The paper takes one G per bucket of 25 MB, and no gradient here is larger than that.
    """
    # The published 127 / n without a floor lets the sum leave its lane, 4 * 32 = 128 for n = 4. This is kinder.
    levels = max_lane_sum(bits) // gradients.n
    scale = np.float32(levels) / gradients.largest
    total = np.zeros(gradients.d, dtype=np.int32)
    for worker in gradients.workers:
        total += np.clip(round_randomly(worker * scale, rng), -levels, levels).astype(np.int32)
    return Estimate(total * (float(gradients.largest) / (levels * gradients.n)), bits)
