"""How wide a step's codes are, from the norm of its gradient (DQ-SGD, arXiv 2107.14575), within a budget solved on line.

    s_n = t |M_n|                      levels, "nonconvex": one absolute step 1 / t for the whole run
    s_n = k alpha^((N-n)/2) |M_n|      levels, "strongly_convex": a step that shrinks by sqrt(alpha) each time
    B_n = log2(s_n + 1) + 1            bits

Lanes come in few widths, so B_n only says where between two of them a step belongs: ``Menu.wire_of`` is a straight line
in log2 s_n through the (levels, bits on the wire) of every width, which are the rule's own points. What is left when a
width is taken goes to the next steps (error diffusion), so their mean is what the rule wanted.

The rule has to come out alike on every rank, down to the last bit, from numbers that all of them have. So what decides
a width is additions, multiplications and comparisons of IEEE numbers, ``log2`` included; what is planned for later
steps may use the platform's mathematics, because ranks agree on it before it is used (schemes.dqsgd).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

#: Steps' worth of norms that the line through them remembers, as part of the run, and at least.
MEMORY = 0.25
LEAST_MEMORY = 16
#: Norms that the line starts with, all like the first, so that two of them do not yet make a trend.
CAUTION = 4
#: Steps in which a debt is paid back where the end is not known, as part of those made, and at least.
PATIENCE = 1 / 16
LEAST_PATIENCE = 4
RAMP = 0.125
TOLERANCE = 0.01
FIRST_NOISE = 0.5
LEAST_NOISE = 0.1
TRUST = 1.0


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
    def _points(self) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
        """Corners of ``wire_of``: log2 |M|, bits on the wire, and the integral of the second over the first."""
        x, y = [], []
        best = _convex(self.widths)
        for low, high in pairwise(best):
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
        return min(reversed(_convex(self.widths)), key=lambda width: abs(width.wire - wire))

    def at_least(self, log2_levels: float) -> Width:
        """The smallest width with so many levels, or the widest."""
        return next((w for w in self.widths if log2(w.levels) >= log2_levels - 2.0**-20), self.widths[-1])


def _convex(widths: Sequence[Width]) -> list[Width]:
    kept: list[Width] = []
    for width in widths:
        while len(kept) > 1 and _gain(kept[-2], kept[-1]) <= _gain(kept[-1], width):
            kept.pop()
        kept.append(width)
    return kept


def _gain(low: Width, high: Width) -> float:
    return (low.levels**-2.0 - high.levels**-2.0) / (high.wire - low.wire)


class State(NamedTuple):
    """What a run remembers. Logarithms are to base 2; None: not known yet.

    steps: made. seen: norms that the line is made of. level, slope: of the line through log |M|, at the last norm.
    debt: bits per element that were wanted beyond the budget. carry: those sent beyond what was wanted.
    plan: log of t, or of k alpha^((N-n)/2), for the step that comes. fixed: of t or k for a relative error of 1.
    """

    steps: int = 0
    seen: int = 0
    level: float | None = None
    slope: float | None = None
    noise: float | None = None
    debt: float | None = None
    carry: float | None = None
    plan: float | None = None
    fixed: float | None = None

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> State:
        """Undo ``to_numbers``."""
        counts, rest = [int(n) for n in numbers[:COUNTS]], numbers[COUNTS:]
        return cls(*counts, *(n / SCALE - OFFSET if n else None for n in rest))

    def to_numbers(self) -> list[float]:
        """Integers in [0, 2^48), rounded to 2^-27; 0 is what a state that knows nothing has in every place.

        So an element-wise maximum leaves equal states as they are and prefers any to none. Of different ones it makes
        a mixture, whose numbers are some of theirs.
        """
        kept = (0 if x is None else round((min(max(x, -LIMIT), LIMIT) + OFFSET) * SCALE) for x in self[COUNTS:])
        return [float(number) for number in (*self[:COUNTS], *kept)]


COUNTS = 2
NUMBERS = len(State._fields)
OFFSET = 1 << 20
LIMIT = OFFSET // 2
SCALE = 1 << 27


class Choice(NamedTuple):
    """A width, and the bits on the wire that the rule would have liked."""

    width: Width
    wanted: float


@dataclass(frozen=True)
class Budget:
    """Spend ``bits`` per element and step in the mean: t or k is solved on line.

    steps: of the run; None if not known. shrinking: -log2(alpha) / 2, what each step has more than the one before.

    Solved for: the mean over the steps that are left, their norms on the line through those seen, equals what is left
    of the budget. No trend is taken to go on for longer than it has been seen. Where the end is not known, the line is
    flat and few steps are left, always: bits then follow the norms of the last few steps, not those of the run.
    """

    bits: float
    steps: int | None = None
    shrinking: float = 0.0

    def choose(self, state: State, norm: float | None, menu: Menu) -> Choice:
        """norm: log2 |M|; None where nothing finite is to be sent."""
        if norm is None:
            return Choice(menu.widths[0], menu.least)
        wanted = self.bits if state.plan is None else menu.wire_of(state.plan + norm)
        wanted = min(max(wanted, menu.least), menu.most)
        return Choice(menu.nearest(wanted - (state.carry or 0.0)), wanted)

    def after(self, state: State, norm: float | None, choice: Choice, menu: Menu) -> State:
        """The state after a step. norm: None where it is not to be learned from."""
        steps = state.steps + 1
        debt = (state.debt or 0.0) + choice.wanted - self.bits
        carry = (state.carry or 0.0) + choice.width.wire - choice.wanted
        state = state._replace(steps=steps, debt=debt, carry=carry)
        if norm is not None:
            state = self._learn(state, norm)
        return state._replace(plan=self._plan(state, menu))

    def _learn(self, state: State, norm: float) -> State:
        """Least squares: the gains of a line through ``seen`` norms, which then forgets beyond ``memory``."""
        if state.level is None or state.slope is None:
            return state._replace(seen=1, level=norm, slope=0.0, noise=FIRST_NOISE)
        memory = max(LEAST_MEMORY, int(MEMORY * (self.steps or state.steps)))
        k = min(state.seen + 1, memory) + CAUTION
        expected = state.level + state.slope
        surprise = norm - expected
        noise = state.noise or 0.0
        return state._replace(
            seen=state.seen + 1,
            noise=math.sqrt(noise**2 + (surprise**2 - noise**2) / k),
            level=expected + surprise * 2 * (2 * k - 1) / (k * (k + 1)),
            slope=state.slope + surprise * 6 / (k * (k + 1)),
        )

    def _plan(self, state: State, menu: Menu) -> float | None:
        if state.level is None or state.slope is None:
            return None
        patience = LEAST_PATIENCE + int(PATIENCE * state.steps)
        left = patience if self.steps is None else max(self.steps - state.steps, LEAST_PATIENCE)
        goal = self.bits - (state.debt or 0.0) / left
        goal = min(max(goal, menu.least), menu.most)
        debt_cap = 0
        lines = self._forecast(state, left)
        return (
            sum(
                self._solve(lines, min(max(goal + off, menu.least), menu.most), menu) for off in (-TOLERANCE, TOLERANCE)
            )
            / 2
        )

    def _solve(self, lines, goal, menu):
        left = sum(c for c, _, _ in lines)
        reach = max(max(abs(a), abs(b)) for _, a, b in lines)
        # Enough to have every step at the smallest width, or at the widest.
        low, high = -reach - 4.0, reach + 4.0 + log2(menu.widths[-1].levels)
        for _ in range(30):
            middle = (low + high) / 2
            mean = sum(count * menu.mean_wire(middle + a, middle + b) for count, a, b in lines) / left
            low, high = (middle, high) if mean < goal else (low, middle)
        return (low + high) / 2

    def _forecast(self, state: State, left: int) -> list[tuple[int, float, float]]:
        """The next ``left`` steps' log |M|, with what alpha adds, as (steps, first, last) of straight lines."""
        assert state.level is not None and state.slope is not None
        start = state.level + state.slope
        spread = 3 * max(state.noise or 0, LEAST_NOISE) ** 2

        def line(count, a, b):
            c, h = (a + b) / 2, math.sqrt((b - a) ** 2 / 4 + spread)
            return count, c - h, c + h

        if self.steps is None:
            return [line(left, start, start)]
        straight = min(left, max(1, int(TRUST * state.seen)))
        growing = max(0, min(self.steps - state.steps, left))

        def at(step: int) -> float:
            return start + state.slope * min(step, straight) + self.shrinking * min(step, growing)

        ends = sorted({0, straight, growing, left} - {left}) + [left]
        return [line(b - a, at(a), at(b)) for a, b in pairwise(ends) if b > a]


@dataclass(frozen=True)
class Target:
    """Hold the absolute error of the first step: t or k is what makes it ``error`` there, beside the mean's length.

    steps, shrinking: as in Budget. The first step takes the widest codes, since what they will show isn't known yet.
    """

    error: float
    steps: int | None = None
    shrinking: float = 0.0

    def choose(self, state: State, norm: float | None, menu: Menu) -> Choice:
        """As ``Budget.choose``, rounded up to a width that there is."""
        if norm is None:
            width = menu.widths[0]
        elif state.fixed is None:
            width = menu.widths[-1]
        else:
            width = menu.at_least(state.fixed - log2(self.error) + norm + self._shrunk(state.steps))
        return Choice(width, width.wire)

    def after(self, state: State, norm: float | None, choice: Choice, menu: Menu) -> State:
        """The state after a step."""
        return state._replace(steps=state.steps + 1)

    def wants_first(self, state: State, norm: float | None) -> bool:
        """Whether ``first`` is to be called after this step; norm: as in ``Budget.after``."""
        return state.fixed is None and norm is not None

    def first(self, state: State, norm: float, choice: Choice, squared_error: float, squared_mean: float) -> State:
        """The state after the first step. squared_error: expected of its codes; squared_mean: of what was decoded.

        |error|^2 = c |M|^2 / L^2 here and in every step, and |error| = e |mean| asks for L = |M| sqrt(c) / (e |mean|).
        """
        if not squared_error > 0 < squared_mean:
            return state
        levels = math.log2(choice.width.levels) - norm + math.log2(squared_error / squared_mean) / 2
        return state._replace(fixed=levels - self._shrunk(state.steps - 1))

    def _shrunk(self, steps: int) -> float:
        return self.shrinking * (steps if self.steps is None else min(steps, self.steps))
