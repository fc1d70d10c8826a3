"""What one step brings: the gradients of n workers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np


class Tensor(NamedTuple):
    """A parameter's name and shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Gradients:
    """Gradients of n workers at the same parameters.

    workers: float32 (n, d). tensors: what a row is made of, one after the other, d elements in all.
    previous_square: |mean|^2 of the step before, for those whose scale follows from it.
    """

    workers: np.ndarray
    tensors: tuple[Tensor, ...]
    previous_square: float

    @property
    def n(self) -> int:
        return self.workers.shape[0]

    @property
    def d(self) -> int:
        return self.workers.shape[1]

    @cached_property
    def mean(self) -> np.ndarray:
        """float64 (d,)."""
        return self.workers.mean(axis=0, dtype=np.float64)

    @cached_property
    def largest(self) -> np.float32:
        """max_i max_j |x_ij|, which takes one number on the wire: nobody's bits count it."""
        return max(np.abs(worker).max() for worker in self.workers)

    def nmse(self, estimate: np.ndarray) -> float:
        """|estimate - mean|^2 / |mean|^2."""
        return float(np.square(estimate - self.mean).sum() / np.square(self.mean).sum())

    def cut(self, row: np.ndarray) -> Iterator[np.ndarray]:
        """A row (d,) as views of its tensors, each flat."""
        for start, stop in pairwise(accumulate((t.numel for t in self.tensors), initial=0)):
            yield row[start:stop]
