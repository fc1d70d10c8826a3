"""IntSGD (arXiv 2102.08374; papers.md 7): integers of one adaptive scale, which costs no communication."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate, max_lane_sum, round_randomly
from benchmarks.accuracy.gradients import Gradients


def intsgd(gradients: Gradients, rng: np.random.Generator, *, bits: int | None) -> Estimate:
    """1 / (n alpha) * sum_i round(alpha x_i) with alpha = sqrt(d / (2 n r)), randomly rounded.

    r is |mean gradient|^2 of the step before, where the paper has a moving average of steps. bits: of a lane, to whose
    n-th part integers are clipped; None for int32 without clipping, counted with the bits that the sum really needs.
    """
    n = gradients.n
    alpha = np.float32(np.sqrt(gradients.d / (2 * n * (gradients.previous_square + 1e-16))))
    most = float("inf") if bits is None else max_lane_sum(bits) // n
    total, largest = np.zeros(gradients.d, dtype=np.float64), 0.0
    for worker in gradients.workers:
        codes = np.clip(round_randomly(worker * alpha, rng), -most, most)
        largest = max(largest, float(np.abs(codes).max()))
        total += codes
    needed = 1 + int(n * largest).bit_length()
    return Estimate(total / (n * float(alpha)), needed if bits is None else bits)
