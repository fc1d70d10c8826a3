"""Gradients of known laws: worker i has x_i = (c + o_i) / 1024, all elements of c and of every o_i independent.

c is common to all workers, o_i is worker i's own, and both are of the same law and scale: standard normal, Student's t
with 3 degrees of freedom, or lognormal with a random sign, e^(2 z) for a standard normal z. So half of a worker's
signal is shared. 1024 brings them to where gradients lie, which matters to fp16 alone. One tensor of 512 x 512: what
wants a matrix gets one, though one of full rank.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.accuracy.gradients import Tensor

TENSORS = (Tensor("synthetic", (512, 512)),)
NUMEL = TENSORS[0].numel
SCALE = np.float32(2.0**-10)

Law = Callable[[np.random.Generator], np.ndarray]


def _gaussian(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(NUMEL, dtype=np.float32)


def _student(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_t(3, NUMEL).astype(np.float32)


def _lognormal(rng: np.random.Generator) -> np.ndarray:
    sizes = np.exp(2 * rng.standard_normal(NUMEL, dtype=np.float32))
    return sizes * (2 * rng.integers(0, 2, NUMEL, dtype=np.int8) - 1)


LAWS: dict[str, Law] = {"gaussian": _gaussian, "student": _student, "lognormal": _lognormal}


def draw(law: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Float32 (n, 2^18)."""
    common = LAWS[law](rng)
    workers = np.empty((n, NUMEL), dtype=np.float32)
    for worker in workers:
        worker[:] = (common + LAWS[law](rng)) * SCALE
    return workers
