"""NMSE of every contender on one source of gradients, for several numbers of workers and several seeds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np

from benchmarks.accuracy import recorded, synthetic
from benchmarks.accuracy.gradients import Gradients, Tensor
from benchmarks.accuracy.lines import entries


class Source(NamedTuple):
    """Where gradients come from: a law, or a model after ``point`` steps."""

    name: str
    point: int | None = None

    def __str__(self) -> str:
        return self.name if self.point is None else f"{self.name} after {self.point}"

    def workers(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, tuple[Tensor, ...]]:
        """n workers, float32 (n, d): drawn, or picked among those that were recorded."""
        if self.point is None:
            return synthetic.draw(self.name, n, rng), synthetic.TENSORS
        everyone, tensors = recorded.load(self.name, self.point)
        return everyone[rng.permutation(recorded.WORKERS)[:n]], tensors


class Cell(NamedTuple):
    """One contender at one width. bits: on the wire per element. nmse, spread: mean and standard deviation of seeds."""

    source: str
    n: int
    line: str
    setting: str
    bits: float
    nmse: float
    spread: float


def measure(source: Source, ns: Sequence[int], seeds: int) -> list[Cell]:
    """All cells of a source.

    A seed chooses the workers, of which the first n take part, and everything that is random in a contender. Seed s has
    the gradients of seed s - 1 for the step before. Of 128 recorded workers any 128 are the same: there both are equal.
    """
    found: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    squares: dict[int, float] = {}
    started = time.monotonic()
    for seed in range(-1, seeds):
        everyone, tensors = source.workers(max(ns), np.random.default_rng([seed + 1, *map(ord, source.name)]))
        for n in ns:
            gradients = Gradients(everyone[:n], tensors, squares.get(n, float("nan")))
            squares[n] = float(np.square(gradients.mean).sum())
            if seed < 0:
                continue
            for index, (line, setting, contender) in enumerate(entries(n)):
                estimate = contender(gradients, np.random.default_rng([seed, n, index]))
                found.setdefault((n, line, setting), []).append((estimate.bits, gradients.nmse(estimate.mean)))
    print(f"{source}: {time.monotonic() - started:.0f} s", flush=True)
    return [
        Cell(str(source), n, line, setting, mean(b for b, _ in rows), mean(e for _, e in rows), _spread(rows))
        for (n, line, setting), rows in found.items()
    ]


def _spread(rows: list[tuple[float, float]]) -> float:
    return stdev(error for _, error in rows) if len(rows) > 1 else 0.0
