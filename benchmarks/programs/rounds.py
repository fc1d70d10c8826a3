"""Measures things in turn, round after round: what disturbs one of them disturbs all.

Before each measurement the ranks meet, so all of them start together. A time is the slowest rank's. Ranks meet over MPI
and not over Horovod, which a process has for one framework only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median_high
from typing import Any

from mpi4py import MPI

WARM_UP = 3
FEWEST_ROUNDS = 3


def rounds(timed: dict[str, Callable[[int], Any]], seconds: float) -> dict[str, Any]:
    """Call each of ``timed`` in turn until ``seconds`` are over on rank 0; what they took, sent and returned."""
    names = list(timed)
    taken: dict[str, list[float]] = {name: [] for name in names}
    sent: dict[str, list[int]] = {name: [] for name in names}
    values: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    number = -WARM_UP
    while number < FEWEST_ROUNDS or _go_on(time.perf_counter() - start < seconds):
        # Everybody follows everybody in turn.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            _meet()
            before, bytes_before = time.perf_counter(), _bytes_sent()
            value = timed[name](number + WARM_UP)
            elapsed, sent_bytes = time.perf_counter() - before, _bytes_sent() - bytes_before
            if value is not None:
                values[name].append(value)
            if number >= 0:
                taken[name].append(elapsed)
                sent[name].append(sent_bytes)
        number += 1
    cells: dict[str, Any] = {}
    for name in names:
        cells[name] = {"seconds": _slowest(taken[name]), "sent_bytes": median_high(sent[name])}
        if values[name]:
            cells[name]["losses"] = _mean(values[name])
    return cells


def in_any_round(function: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """``function`` for ``rounds``, the same in every round and without a value."""

    def call(number: int) -> None:
        function(*arguments)

    return call


def _meet() -> None:
    MPI.COMM_WORLD.Barrier()


def _go_on(here: bool) -> bool:
    return MPI.COMM_WORLD.bcast(here, root=0)


def _slowest(seconds: list[float]) -> list[float]:
    return [round(max(ranks), 6) for ranks in zip(*MPI.COMM_WORLD.allgather(seconds), strict=True)]


def _mean(values: list[float]) -> list[float]:
    return [round(sum(ranks) / len(ranks), 5) for ranks in zip(*MPI.COMM_WORLD.allgather(values), strict=True)]


def _bytes_sent() -> int:
    """By this host's interface, headers and acknowledgements included; 0 where all ranks share one host."""
    interface = os.environ["GQSGD_INTERFACE"]
    if interface == "lo":
        return 0
    lines = map(str.split, Path("/proc/self/net/dev").read_text().splitlines())
    return next(int(fields[9]) for fields in lines if fields[0] == f"{interface}:")
