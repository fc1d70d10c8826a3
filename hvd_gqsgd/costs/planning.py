"""The choice for many sizes of world and speeds of link: what changes if the cluster does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hvd_gqsgd.costs.advice import advise
from hvd_gqsgd.costs.machine import GOODPUT
from hvd_gqsgd.costs.rates import Rates

RANKS = tuple(2**power for power in range(1, 11))
GBITS = (1.0, 10.0, 25.0, 100.0, 400.0)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``gain`` of the recommended setting over none, among ``ranks`` on links of ``gbit`` Gbit/s."""

    ranks: int
    gbit: float
    setting: str
    gain: float


def link_bandwidth(gbit: float) -> float:
    """Payload bytes per second of a link of ``gbit`` Gbit/s."""
    return gbit * 1e9 / 8 * GOODPUT


def plan(
    rates: Rates, numels: Sequence[int], ranks: Sequence[int] = RANKS, gbits: Sequence[float] = GBITS
) -> list[Plan]:
    """The recommendation for every size and link; machines, and what hops cost, as in ``rates``.

    Hosts are taken to keep up with the link.
    """
    rows = []
    for n in ranks:
        for gbit in gbits:
            best = advise(rates.on_link(link_bandwidth(gbit)), numels, n).best
            rows.append(Plan(ranks=n, gbit=gbit, setting=best.choice.name, gain=best.gain))
    return rows


def table(rows: Sequence[Plan]) -> Iterator[str]:
    """Lines of text: ranks down, links across, each cell the setting and its gain."""
    gbits = sorted({row.gbit for row in rows})
    cells = {(row.ranks, row.gbit): f"{row.setting} {row.gain:.1f}x" for row in rows}
    yield f"{'ranks':>5}" + "".join(f"{f'{gbit:g} Gbit/s':>15}" for gbit in gbits)
    for n in sorted({row.ranks for row in rows}):
        yield f"{n:>5}" + "".join(f"{cells[n, gbit]:>15}" for gbit in gbits)
