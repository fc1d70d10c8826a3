"""Horovod's Compression.fp16: half precision, and so is every partial sum on the way."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate
from benchmarks.accuracy.gradients import Gradients


def half(gradients: Gradients, rng: np.random.Generator) -> Estimate:
    """Sum of float16, one worker after the other as in a ring; divided by n when it is float32 again."""
    total = np.zeros(gradients.d, dtype=np.float16)
    for worker in gradients.workers:
        total += worker.astype(np.float16)
    return Estimate(total.astype(np.float32) / np.float32(gradients.n), 16)
