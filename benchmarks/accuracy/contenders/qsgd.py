"""QSGD (arXiv 1610.02132) with norms of each worker's own: nothing can be summed on the way, so all is gathered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate, as_ring, max_lane_sum, round_randomly
from benchmarks.accuracy.gradients import Gradients

BUCKET = 512
NORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "max": lambda rows: np.abs(rows).max(axis=1),
    "l2": lambda rows: np.sqrt(np.square(rows).sum(axis=1)),
}


def qsgd(gradients: Gradients, rng: np.random.Generator, *, bits: int, norm: str) -> Estimate:
    """N / s * floor(x s / N + u) with s = 2^(bits-1) - 1 levels on each side and N the norm of 512 elements.

    Codes of ``bits`` bits, not the paper's variable ones. A rank receives those of the n - 1 others.
    """
    levels, d = max_lane_sum(bits), gradients.d
    total = np.zeros(-(-d // BUCKET) * BUCKET, dtype=np.float32)
    padded = np.zeros_like(total)
    for worker in gradients.workers:
        padded[:d] = worker
        rows = padded.reshape(-1, BUCKET)
        norms = NORMS[norm](rows)
        scales = np.float32(levels) / np.where(norms > 0, norms, np.float32(np.inf))
        codes = np.clip(round_randomly(rows * scales[:, None], rng), -levels, levels)
        total += (codes * (norms / np.float32(levels))[:, None]).reshape(-1)
    return Estimate(total[:d] / np.float32(gradients.n), as_ring((gradients.n - 1) * (bits + 32 / BUCKET), gradients.n))
