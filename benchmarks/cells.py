"""What ``benchmarks.steps`` wrote, read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

#: Steps over whose losses a table takes the mean.
LAST = 5


@dataclass(frozen=True)
class Cell:
    """One contender on one model, link and number of hosts. kind: step, or aggregation: the exchange alone."""

    hosts: int
    link: str
    bits_per_second: float | None
    model: str
    contender: str
    kind: str
    seconds: tuple[float, ...]
    sent_bytes: int
    losses: tuple[float, ...]
    relative_error: float | None

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = quantiles(self.seconds, n=4)
        return low, high


def read(paths: Iterable[Path]) -> list[Cell]:
    """The cells of all files; a later one replaces an earlier one of the same place."""
    cells = {(c.hosts, c.link, c.model, c.contender, c.kind): c for path in paths for c in _cells_of(path)}
    return list(cells.values())


def _cells_of(path: Path) -> Iterator[Cell]:
    for run in json.loads(path.read_text())["runs"]:
        for cell in run["cells"]:
            yield Cell(
                hosts=run["hosts"],
                link=run["link"],
                bits_per_second=run["bits_per_second"],
                model=cell["model"],
                contender=cell["contender"],
                kind=cell["kind"],
                seconds=tuple(cell["seconds"]),
                sent_bytes=cell["sent_bytes"],
                losses=tuple(cell.get("losses", ())),
                relative_error=cell.get("relative_error"),
            )


def tables(cells: list[Cell]) -> Iterator[str]:
    """One table for every model, link and number of hosts, in milliseconds and megabytes."""
    places: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        places.setdefault((cell.hosts, cell.link, cell.model, cell.kind), []).append(cell)
    for (hosts, link, model, kind), here in places.items():
        base = next((c.median for c in here if c.contender == "hvd none"), None)
        yield f"\n{model}, {link}, {hosts} hosts: {kind} (none / each: higher is faster)"
        yield f"{'':<14}{'ms':>9} {'quartiles':>19} {'none/it':>8} {'MB/rank':>8} {'loss':>8} {'NMSE':>9}"
        for c in here:
            low, high = c.quartiles
            yield (
                f"{c.contender:<14}{1e3 * c.median:>9.1f} {1e3 * low:>9.1f}-{1e3 * high:<9.1f} "
                f"{f'{base / c.median:.2f}' if base else '':>8} {c.sent_bytes / 1e6:>8.2f} "
                f"{f'{mean(c.losses[-LAST:]):.3f}' if c.losses else '':>8} "
                f"{f'{c.relative_error:.1e}' if c.relative_error is not None else '':>9}"
            )
