"""How wide a step's codes are, by the size of its gradient (DQ-SGD, arXiv 2107.14575), within a budget solved on line.

    s_n = t |M_n|                      levels, "nonconvex": one absolute step 1 / t for the whole run
    s_n = k alpha^((N-n)/2) |M_n|      levels, "strongly_convex": a step that shrinks by sqrt(alpha) each time
    B_n = log2(s_n + 1) + 1            bits

That is where the sum of |M_n|^2 / s_n^2, the paper's error, is least for its bits, were there a width for every real
number. Lanes come in few, 3.2, 4, 5.3 bits and so on, so the same sum is made least over those: the next width is taken
where |M_n|^2 times what it takes off 1 / s^2 is worth its bits (bit_menu). Between real bits and theirs by turns, each
narrow step would cost far more than a wide one gains: error is exponential in bits.

The rule has to come out alike on every rank, down to the last bit, from numbers that all of them have. So what decides
a width is additions, multiplications and comparisons of IEEE numbers, ``log2`` included; what is planned for later
steps may use the platform's mathematics, because ranks agree on it before it is used (schemes.dqsgd).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hvd_gqsgd.maths.bit_menu import Menu, Width, log2

#: Parts of the surprise of each norm by which level and drift follow, and of its square by which the noise does. A
#: drift is never above 0: falling norms keep their share of bits, rising ones get more. Found on the norms of training
#: runs (docs/dqsgd.md), which turn: longer memories, and trends taken to go on, lost several times what they won.
LEVEL_GAIN = 0.15
DRIFT_GAIN = 0.01
NOISE_GAIN = 0.08
#: Scatter of log2 |M| that is assumed at first, and at least.
FIRST_NOISE = 1.0
LEAST_NOISE = 0.1
#: First steps, which do not get less than their share: norms fall fast there, and what errs there is large.
START = 16
#: Where the end is not known: debts that are let be, as part of what was to be spent, and the steps in which others are
#: paid back, as part of those made, and at least. So each step could be the last and the budget be met within 2 %.
PARDON = 0.005
PATIENCE = 0.04
LEAST_PATIENCE = 3
#: Bits by which the goal is missed on both sides to find the middle of where it is met.
TOLERANCE = 0.01
#: Halvings of the range in which the plan is looked for, some tens wide.
ROUNDS = 24


class State(NamedTuple):
    """What a run remembers. Logarithms are to base 2; None: not known yet.

    steps: made. seen: norms that were learned from. level, drift, noise: the logarithm
    expected next, what it changes by in a step, how much they scatter.
    debt: bits per element that were wanted beyond the budget. carry: those sent beyond what was wanted.
    plan: log of t, or of k alpha^((N-n)/2), for the step that comes. fixed: of t or k for a relative error of 1.
    """

    steps: int = 0
    seen: int = 0
    level: float | None = None
    drift: float | None = None
    noise: float | None = None
    debt: float | None = None
    carry: float | None = None
    plan: float | None = None
    fixed: float | None = None

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> State:
        """Undo ``to_numbers``."""
        counts, rest = [int(n) for n in numbers[:COUNTS]], numbers[COUNTS:]
        return cls(counts[0], counts[1], *(n / SCALE - OFFSET if n else None for n in rest))

    def to_numbers(self) -> list[float]:
        """Integers in [0, 2^48), rounded to 2^-27; 0 is what a state that knows nothing has in every place.

        So an element-wise maximum leaves equal states as they are and prefers any to none. Of different ones it makes
        a mixture, whose numbers are some of theirs.
        """
        known = (self.level, self.drift, self.noise, self.debt, self.carry, self.plan, self.fixed)
        kept = (0 if x is None else round((min(max(x, -LIMIT), LIMIT) + OFFSET) * SCALE) for x in known)
        return [float(number) for number in (self.steps, self.seen, *kept)]


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

    Solved for: the mean over the steps that are left, their norms scattered about the level of the last ones, equals
    what is left of the budget. Where the end is not known, few steps are left, always.
    """

    bits: float
    steps: int | None = None
    shrinking: float = 0.0

    def choose(self, state: State, norm: float | None, menu: Menu) -> Choice:
        """norm: log2 |M|; None where nothing finite is to be sent."""
        if norm is None:
            return Choice(menu.widths[0], menu.least)
        wanted = self.bits if state.plan is None else menu.wire_of(state.plan + norm)
        if state.seen < START and not self.shrinking:
            wanted = max(wanted, self.bits)
        wanted = min(max(wanted, menu.least), menu.most)
        return Choice(menu.nearest(wanted - (state.carry or 0.0)), wanted)

    def after(self, state: State, norm: float | None, choice: Choice, menu: Menu) -> State:
        """The state after a step. norm: None where it is not to be learned from."""
        debt = (state.debt or 0.0) + choice.wanted - self.bits
        carry = (state.carry or 0.0) + choice.width.wire - choice.wanted
        state = state._replace(steps=state.steps + 1, debt=debt, carry=carry)
        if norm is not None:
            state = _learn(state, norm)
        return state._replace(plan=self._plan(state, menu))

    def _plan(self, state: State, menu: Menu) -> float | None:
        if state.level is None:
            return None
        if self.steps is None:
            left, pardoned = LEAST_PATIENCE + int(PATIENCE * state.steps), PARDON * self.bits * state.steps
        else:
            left, pardoned = max(self.steps - state.steps, 1), 0.0
        debt = state.debt or 0.0
        unpaid = max(0.0, abs(debt) - pardoned)
        goal = self.bits - math.copysign(unpaid, debt) / left
        growing = 0 if self.steps is None else max(0, min(self.steps - state.steps, left))
        # Where the goal is met over a whole range of t, as by one width alone, its middle is safe from noise.
        return sum(self._solve(state, goal + off, left, growing, menu) for off in (-TOLERANCE, TOLERANCE)) / 2

    def _solve(self, state: State, goal: float, left: int, growing: int, menu: Menu) -> float:
        """The plan with which the next ``left`` steps take ``goal`` bits in the mean."""
        assert state.level is not None
        goal = min(max(goal, menu.least), menu.most)
        rise = self.shrinking * growing
        # Uniform ranges as wide as the noise, and for steps that grow as wide as both together.
        scatter = 3 * max(state.noise or 0.0, LEAST_NOISE) ** 2
        parts = [(growing, rise / 2, math.sqrt(scatter + rise**2 / 4)), (left - growing, rise, math.sqrt(scatter))]
        parts = [(count, state.level + middle, half) for count, middle, half in parts if count]
        reach = max(abs(middle) + half for _, middle, half in parts)
        # So low that every step takes the narrowest codes, so high that every one takes the widest.
        low, high = -reach - menu.reach, reach + menu.reach
        for _ in range(ROUNDS):
            plan = (low + high) / 2
            mean = (
                sum(c * menu.mean_wire(plan + middle - half, plan + middle + half) for c, middle, half in parts) / left
            )
            low, high = (plan, high) if mean < goal else (low, plan)
        return (low + high) / 2


def _learn(state: State, norm: float) -> State:
    if state.level is None:
        return state._replace(seen=1, level=norm, drift=0.0, noise=FIRST_NOISE)
    surprise, noise = norm - state.level, state.noise or 0.0
    drift = min(0.0, (state.drift or 0.0) + DRIFT_GAIN * surprise)
    return state._replace(
        seen=state.seen + 1,
        level=state.level + LEVEL_GAIN * surprise + drift,
        drift=drift,
        noise=math.sqrt(noise**2 + NOISE_GAIN * (surprise**2 - noise**2)),
    )


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
