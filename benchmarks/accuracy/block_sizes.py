"""What the size of a block costs: NMSE beside that of the default's size, and bits on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import NamedTuple

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate
from benchmarks.accuracy.gradients import Gradients
from benchmarks.accuracy.measure import Source
from benchmarks.accuracy.ours import Reduction
from hvd_gqsgd.schemes import GlobalQSGD

BITS = 8
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
#: The size whose NMSE is 1 in the table.
REFERENCE = GlobalQSGD().block_size


class Row(NamedTuple):
    """One source and number of workers. nmse: of blocks of ``REFERENCE``, mean of the seeds.

    relative: mean over the seeds of NMSE / NMSE of blocks of ``REFERENCE``, by block size. spread: the largest standard
    deviation of these quotients, nan for one seed. bits: on the wire per element, by block size: words and norms with
    their headers, and 32 for elements of tensors too small.
    """

    source: str
    n: int
    nmse: float
    relative: dict[int, float]
    spread: float
    bits: dict[int, float]


def compare(source: Source, ns: Sequence[int], sizes: Sequence[int], rotation: str | None, seeds: int) -> Iterator[Row]:
    """Rows of a source. A seed chooses the workers, of which the first n take part, and the dither."""
    draws = [source.workers(max(ns), np.random.default_rng([seed, *map(ord, source.name)])) for seed in range(seeds)]
    for n in ns:
        here = [Gradients(workers[:n], tensors, float("nan")) for workers, tensors in draws]
        nmse: dict[int, list[float]] = {}
        bits: dict[int, float] = {}
        for size in {REFERENCE, *sizes}:
            scheme = GlobalQSGD(bits=BITS, block_size=size, rotation=rotation)
            estimates: list[Estimate] = [Reduction(scheme, g).estimate(step) for step, g in enumerate(here)]
            nmse[size] = [g.nmse(e.mean) for g, e in zip(here, estimates, strict=True)]
            bits[size] = estimates[0].bits
        quotients = {s: [e / r for e, r in zip(nmse[s], nmse[REFERENCE], strict=True)] for s in sizes}
        yield Row(
            source=str(source),
            n=n,
            nmse=mean(nmse[REFERENCE]),
            relative={s: mean(q) for s, q in quotients.items()},
            spread=max(stdev(q) for q in quotients.values()) if seeds > 1 else float("nan"),
            bits={s: bits[s] for s in sizes},
        )
