"""THC (arXiv 2302.08545; papers.md 6): rotate, send indices into a table of integers, sum the integers."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate, as_ring
from benchmarks.accuracy.gradients import Gradients

BITS = 4
GRANULARITY = 30
TABLE = np.array([0, 3, 5, 7, 9, 11, 13, 14, 16, 17, 19, 21, 23, 25, 27, 30])
OUTSIDE = 1 / 32
LIMIT = NormalDist().inv_cdf(1 - OUTSIDE / 2)
BLOCK = 1024

#: For each unit of the grid: the entry of the table at or below it, and how far it is to the next.
LOWER = TABLE[np.searchsorted(TABLE[:-1], np.arange(GRANULARITY + 1), side="right") - 1].astype(np.float32)
WIDTH = TABLE[np.searchsorted(TABLE[:-1], np.arange(GRANULARITY + 1), side="right")].astype(np.float32) - LOWER


@cache
def _hadamard(size: int) -> np.ndarray:
    if size == 1:
        return np.ones((1, 1), dtype=np.float32)
    half = _hadamard(size // 2)
    return np.block([[half, half], [half, -half]])


def hadamard_transform(x: np.ndarray) -> np.ndarray:
    """x (d,), d a multiple of 1024, times an orthonormal Hadamard matrix in each block; its own inverse."""
    # That matrix is one of 32 x 32 for the rows of a block and one for its columns.
    factor = _hadamard(32).astype(x.dtype)
    by_columns = (x.reshape(-1, 32) @ factor).reshape(-1, 32, 32).swapaxes(1, 2)
    return (by_columns.reshape(-1, 32) @ factor).reshape(-1, 32, 32).swapaxes(1, 2).reshape(-1) / x.dtype.type(32)


def thc(gradients: Gradients, rng: np.random.Generator, *, ring: bool) -> Estimate:
    """4 bits with the table of granularity 30 and p = 1/32; one step, so no error feedback makes up for the clamping.

    ring: T[k] are summed hop by hop, in lanes for the n-fold sum, 30 n. Else a switch does it, as published: a worker
    sends 4 bits and receives that sum, 8 bits up to n = 8, and counts what it receives, the busier direction. A switch
    would halve everyone else's bits likewise: compare with the ring.
    """
    n, d = gradients.n, gradients.d
    padded = np.zeros(-(-d // BLOCK) * BLOCK, dtype=np.float32)
    signs = 2 * rng.integers(0, 2, padded.size).astype(np.float32) - 1
    radius = max(float(np.linalg.norm(worker)) for worker in gradients.workers)
    to_normal = np.float32(np.sqrt(padded.size) / radius)
    total = np.zeros(padded.size, dtype=np.float32)
    for worker in gradients.workers:
        padded[:d] = worker
        normal = np.clip(hadamard_transform(padded * signs) * to_normal, -LIMIT, LIMIT)
        grid = (normal + np.float32(LIMIT)) * np.float32(GRANULARITY / (2 * LIMIT))
        cell = np.minimum(grid.astype(np.intp), GRANULARITY)
        lower, width = LOWER[cell], WIDTH[cell]
        total += lower + width * (rng.random(grid.shape, dtype=np.float32) * width < grid - lower)
    mean = total.astype(np.float64) * (2 * LIMIT / (GRANULARITY * n)) - LIMIT
    estimate = signs * hadamard_transform(mean / float(to_normal))
    sum_bits = (GRANULARITY * n).bit_length()
    return Estimate(estimate[:d], sum_bits if ring else as_ring(max(2 * BITS, sum_bits), n))
