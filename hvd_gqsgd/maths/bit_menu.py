"""Widths that codes may have, what they cost, and which is worth its bits for a gradient of some size (bit_rule)."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

#: Half of the width, in log2 |M|, over which one width gives way to the next: budgets between two need both by turns.
RAMP = 0.125


def log2(x: float) -> float:
    """log2 x of a positive number to 2^-40, from operations that IEEE 754 rounds alike everywhere.

    >>> log2(8.0), round(log2(10.0), 9)
    (3.0, 3.321928095)
    """
    fraction, exponent = math.frexp(x)
    fraction, result, part = 2 * fraction, exponent - 1.0, 1.0
    for _ in range(40):
        fraction, part = fraction * fraction, part / 2
        if fraction >= 2:
            fraction, result = fraction / 2, result + part
    return result


class Width(NamedTuple):
    """A width of lanes: ``bits`` of them, ``levels`` on each side of zero, ``wire`` bits per element that it costs."""

    bits: int
    levels: int
    wire: float


@dataclass(frozen=True)
class Menu:
    """The widths there are, each with more levels and more bits on the wire than the one before; at least one."""

    widths: tuple[Width, ...]

    @property
    def least(self) -> float:
        return self.widths[0].wire

    @property
    def most(self) -> float:
        return self.widths[-1].wire

    @cached_property
    def best(self) -> list[Width]:
        """The best buy for some norm: what they take off 1 / L^2 for a bit falls from one to the next."""
        kept: list[Width] = []
        for width in self.widths:
            while len(kept) > 1 and _gain(kept[-2], kept[-1]) <= _gain(kept[-1], width):
                kept.pop()
            kept.append(width)
        return kept

    @cached_property
    def reach(self) -> float:
        """log2 t |M| beyond which, on either side of 0, ``wire_of`` does not change."""
        return max(abs(x) for x in self._points[0])

    @cached_property
    def _points(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Corners of ``wire_of``: log2 |M|, bits on the wire, and the integral of the second over the first."""
        x: list[float] = []
        y: list[float] = []
        for low, high in pairwise(self.best):
            saved = low.levels**-2.0 - high.levels**-2.0
            worth = log2((high.wire - low.wire) / saved) / 2
            x += [worth - RAMP, worth + RAMP]
            y += [low.wire, high.wire]
        if not x:
            x, y = [0.0], [self.least]
        areas = [0.0]
        for (a, b), (c, d) in zip(pairwise(x), pairwise(y), strict=True):
            areas.append(areas[-1] + (b - a) * (c + d) / 2)
        return tuple(x), tuple(y), tuple(areas)

    def wire_of(self, norm: float) -> float:
        """Bits on the wire that are worth their price where t |M| = 2^norm; within [least, most]."""
        x, y, _ = self._points
        above = bisect_right(x, norm)
        if above in (0, len(x)):
            return y[max(0, above - 1)]
        part = (norm - x[above - 1]) / (x[above] - x[above - 1])
        return y[above - 1] + part * (y[above] - y[above - 1])

    def mean_wire(self, start: float, end: float) -> float:
        """Mean of ``wire_of`` over norms from ``start`` to ``end`` > start."""
        return (self._area(end) - self._area(start)) / (end - start)

    def _area(self, norm: float) -> float:
        x, y, areas = self._points
        if norm <= x[0]:
            return (norm - x[0]) * y[0]
        at = bisect_right(x, norm) - 1
        return areas[at] + (norm - x[at]) * (y[at] + self.wire_of(norm)) / 2

    def nearest(self, wire: float) -> Width:
        """The width that costs most nearly ``wire``; the wider of two that are equally near."""
        return min(reversed(self.best), key=lambda width: abs(width.wire - wire))

    def at_least(self, log2_levels: float) -> Width:
        """The smallest width with so many levels, or the widest."""
        return next((w for w in self.widths if log2(w.levels) >= log2_levels - 2.0**-20), self.widths[-1])


def _gain(low: Width, high: Width) -> float:
    return (low.levels**-2.0 - high.levels**-2.0) / (high.wire - low.wire)
