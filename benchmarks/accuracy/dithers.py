"""Correlated dither beside independent dither: how much smaller its NMSE is, and whether both are unbiased."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist, mean
from typing import NamedTuple

import numpy as np

from benchmarks.accuracy.gradients import Gradients, Tensor
from benchmarks.accuracy.measure import Source
from benchmarks.accuracy.ours import Reduction
from hvd_gqsgd.maths.levels import count_levels
from hvd_gqsgd.schemes import GlobalQSGD

#: Elements and steps of a test of bias. "nearest" is there to fail it.
TESTED, STEPS = 4096, 2000
DITHERS = ("independent", "correlated", "nearest")
SIGMAS = 5
#: Roundings that a z-score takes for granted, so that elements which are hardly ever rounded up do not look biased.
TAKEN = 8


class Row(NamedTuple):
    """One source and number of workers. plain and rotated: NMSE of (independent, correlated) dither.

    largest: max |z| over the tested elements, by dither.
    """

    source: str
    n: int
    bits: int
    plain: tuple[float, float]
    rotated: tuple[float, float]
    largest: dict[str, float]


def compare(source: Source, ns: Sequence[int], bits: int, seeds: int) -> Iterator[Row]:
    """Rows of a source. Its first seed's gradients are those of the test of bias."""
    draws = [source.workers(max(ns), np.random.default_rng([seed, *map(ord, source.name)])) for seed in range(seeds)]
    for n in ns:
        here = [Gradients(workers[:n], tensors, float("nan")) for workers, tensors in draws]
        plain, rotated = (
            (nmse(here, bits, rotation, "independent"), nmse(here, bits, rotation, "correlated"))
            for rotation in (None, "hadamard")
        )
        tested = excerpt(here[0])
        largest = {dither: float(np.abs(z_scores(tested, bits, dither)).max()) for dither in DITHERS}
        yield Row(str(source), n, bits, plain, rotated, largest)


def nmse(gradients: Sequence[Gradients], bits: int, rotation: str | None, dither: str) -> float:
    """Mean over the seeds."""
    scheme = GlobalQSGD(bits=bits, rotation=rotation, dither=dither)
    return mean(g.nmse(Reduction(scheme, g).estimate(step).mean) for step, g in enumerate(gradients))


def excerpt(gradients: Gradients) -> Gradients:
    """The first 4096 elements of the largest tensor."""
    sizes = [t.numel for t in gradients.tensors]
    start = sum(sizes[: sizes.index(max(sizes))])
    chosen = np.ascontiguousarray(gradients.workers[:, start : start + TESTED])
    return Gradients(chosen, (Tensor("excerpt", chosen.shape[1:]),), float("nan"))


def z_scores(gradients: Gradients, bits: int, dither: str, steps: int = STEPS) -> np.ndarray:
    """Mean error of each element over its standard error (d,), without rotation: every rounding is seen by itself."""
    scheme = GlobalQSGD(bits=bits, rotation=None, dither=dither, min_numel=0)
    reduction = Reduction(scheme, gradients)
    total, squares = np.zeros(gradients.d), np.zeros(gradients.d)
    for step in range(steps):
        error = reduction.estimate(step).mean - gradients.mean
        total += error
        squares += np.square(error)
    largest = np.abs(gradients.workers).max(axis=0).reshape(-1, scheme.block_size).max(axis=1)
    unit = largest.repeat(scheme.block_size) / (count_levels(bits, gradients.n) * gradients.n)
    variance = squares / steps - np.square(total / steps) + TAKEN * np.square(unit) / steps
    return total / np.sqrt(steps * variance)


def expected_largest(elements: int) -> float:
    """Median of max |z| over so many standard normal z."""
    return NormalDist().inv_cdf((1 + 0.5 ** (1 / elements)) / 2)
