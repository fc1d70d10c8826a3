"""DQ-SGD (arXiv 2107.14575): Global-QSGD whose width is chosen anew in every step, by the size of its gradient.

    M[b], state = agreed norms of the blocks, and what the run remembers      one Max
    bits        = rule(state, |M|_2)                                          alike on every rank
    q_i, mean   = as in Global-QSGD, in lanes of ``bits`` bits                one Sum, of as many words as they take

The error of a step is proportional to |M|^2 / L^2, the paper's d |g|^2 / s^2 with a norm for each block, so the paper's
rules hold for |M| (maths.bit_rule). A lane's levels are always all used: fewer of them would take the same bytes.

What the run remembers travels with the norms, as integers of which zero stands for nothing: the maximum leaves it as it
is where all ranks have the same, gives it to a rank that has none because it came later, is not changed by the zeros of
a rank that joined, and of different memories makes one that all ranks have. So they can't choose different widths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.kernels.layout import NORMS_HEADER, WORDS_HEADER, Layout
from hvd_gqsgd.maths import bit_rule
from hvd_gqsgd.maths.bit_menu import Menu, Width, log2
from hvd_gqsgd.maths.bit_rule import Budget, State, Target
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.maths.lanes import lanes_per_word
from hvd_gqsgd.maths.levels import max_lane_sum
from hvd_gqsgd.schemes.base import CHECK_RANGE, Bucket, Exchange, Kind, Max, Sum, World
from hvd_gqsgd.schemes.blocks import BlockScheme
from hvd_gqsgd.schemes.measure import Measured, measure

RULES = ("nonconvex", "strongly_convex")
#: The widest lanes for each number of them that a word has room for.
WIDTHS = (2, 3, 4, 5, 6, 8, 10, 16)
LEAST_DEFAULT_BITS = 4.0
MOST_STEPS = 1 << 40


@dataclass(frozen=True, kw_only=True)
class DQSGD(BlockScheme):
    """Settings of DQ-SGD. Write either ``bits`` or ``target_error``.

    bits: on the wire per element in the mean over the run, a real number from 2 to 16; norms, 32 / block_size, come
        on top. n ranks need lanes of at least log2(n + 1) + 1 bits. None, without ``target_error``: what the second
        narrowest lanes cost that hold a sum of n codes, and at least 4, so that there is one width to fall to.
    target_error: |error| / |mean gradient| to be expected in the first step. The absolute error then stays as it is
        there ("nonconvex"), so that bits follow log2 of the norm; no budget holds.
    rule: "nonconvex" makes the error the same in every step. "strongly_convex" lets it shrink by sqrt(alpha) in each,
        because what errs early is forgotten; needs ``alpha`` and ``steps``.
    alpha: contraction of one step of SGD, 1 - 2 mu eta + L mu eta^2 in the paper, in (0, 1).
    steps: of the run; later ones count as the last. With a budget, what is not spent is then kept for all of the run;
        without it, for some steps only, since each may be the last.
    block_size, rotation, dither, error_feedback, min_numel, seed: as in GlobalQSGD.
    """

    bits: float | None = None
    target_error: float | None = None
    rule: str = "nonconvex"
    alpha: float | None = None
    steps: int | None = None
    block_size: int = 256
    rotation: str | None = "hadamard"
    dither: str | None = None
    error_feedback: bool = False
    min_numel: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_one_of("rule", RULES)
        if self.bits is not None and self.target_error is not None:
            raise SettingsError(
                f"DQSGD(bits={self.bits!r}, target_error={self.target_error!r}): expected one of the two, a budget or "
                "an error, got both; leave one of them out"
            )
        if self.target_error is not None:
            self._require_number("target_error", 0, math.inf, "0.1", open_ends=True)
        elif self.bits is not None:
            self._require_number("bits", _cost(WIDTHS[0]), _cost(WIDTHS[-1]), "4.0")
        convex = self.rule == "strongly_convex"
        if convex and (self.alpha is None or self.steps is None):
            raise SettingsError(
                f"DQSGD(rule='strongly_convex', alpha={self.alpha!r}, steps={self.steps!r}): expected the contraction "
                "of a step and the number of steps, got None; write for instance alpha=0.99, steps=10000"
            )
        if not convex and self.alpha is not None:
            raise SettingsError(
                f"DQSGD(rule={self.rule!r}, alpha={self.alpha!r}): expected alpha=None, which rule='strongly_convex' "
                "alone uses; leave alpha out, or write rule='strongly_convex'"
            )
        if self.alpha is not None:
            self._require_number("alpha", 0, 1, "0.99", open_ends=True)
        if self.steps is not None:
            self._require_integer("steps", 1, MOST_STEPS)
        self._check_blocks()

    @property
    def on_host(self) -> bool:
        return True

    @property
    def stages(self) -> Sequence[Sequence[Kind]]:
        return [[(Max, "float32")], [(Sum, "int32")]]

    def bits_of(self, name: str, shape: Sequence[int]) -> int | None:
        return None if self._too_small(shape) else WIDTHS[-1]

    def check_world(self, size: int) -> None:
        if not _lanes_for(size):
            raise SettingsError(
                f"DQSGD on {size} ranks: expected at most {max_lane_sum(WIDTHS[-1])}, whose codes add up in a lane of "
                f"{WIDTHS[-1]} bits; use smaller process sets"
            )
        least = _cost(_lanes_for(size)[0])
        if self.bits is not None and self.bits < least:
            raise SettingsError(
                f"DQSGD(bits={self.bits!r}) on {size} ranks: a sum of {size} codes takes {least:.4g} bits on the wire "
                f"or more, got a budget of {self.bits:.4g}; write bits={math.ceil(10 * least) / 10} or more"
            )

    def collectives(self, bucket: Bucket, kernels: Kernels, world: World, *, valid: bool = True) -> Exchange:
        controller = bucket.memory[0].setdefault("controller", np.zeros(bit_rule.NUMBERS))
        both = _norms_and_state(bucket)
        bucket.write_header(valid)
        kernels.block_norms(
            bucket.layout, bucket.tensors, bucket.norms, self._turn(bucket.step, world), bucket.residuals
        )
        both[bucket.layout.norms_numel :] = _in_halves(controller)
        yield Max(both)
        turn = self._turn(bucket.read_header(), world)
        state = State.from_numbers(_whole(both[bucket.layout.norms_numel :]))
        menu, rule = _menu(bucket, world.size), self._controller(world.size)
        norm, finite = _log2_norm(bucket.norms[NORMS_HEADER:])
        choice = rule.choose(state, norm, menu)
        layout = bucket.scratch["layout"] = _layout(bucket, choice.width.bits)
        words = bucket.words[: layout.words_numel]
        bucket.count_this_rank()
        kernels.encode(layout, bucket.tensors, bucket.norms, words, turn, bucket.residuals)
        yield Sum(words)
        learned = norm if finite else None
        state = rule.after(state, learned, choice, menu)
        if isinstance(rule, Target) and learned is not None and state.fixed is None:
            seen = self.measure(bucket, world)
            state = rule.first(state, learned, choice, seen.squared_error, seen.squared_mean)
        controller[:] = state.to_numbers()

    def decode(self, bucket: Bucket, kernels: Kernels, world: World, out: Sequence[Buffer], *, scale: float) -> None:
        layout = bucket.scratch["layout"]
        words, turn = bucket.words[: layout.words_numel], self._turn(bucket.step, world)
        kernels.decode(layout, out, words, bucket.norms, turn, factor=bucket.per_contributor(scale))

    def measure(self, bucket: Bucket, world: World) -> Measured:
        layout = bucket.scratch["layout"]
        return measure(layout, bucket.norms, bucket.words, world.size, int(bucket.words[0]))

    def _controller(self, size: int) -> Budget | Target:
        shrinking = 0.0 if self.alpha is None else -log2(self.alpha) / 2
        if self.target_error is not None:
            return Target(self.target_error, self.steps, shrinking)
        bits = self.bits
        if bits is None:
            bits = max(LEAST_DEFAULT_BITS, *map(_cost, _lanes_for(size)[:2]))
        return Budget(bits, self.steps, shrinking)

    def _turn(self, step: int, world: World) -> Turn:
        return Turn(self.seed, step, world.rank, world.size)

    def _require_number(self, name: str, low: float, high: float, example: str, open_ends: bool = False) -> None:
        """Raise SettingsError unless setting ``name`` is a number in [low, high], or in (low, high); store a float."""
        value = getattr(self, name)
        number = (
            float(value) if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else math.nan
        )
        if not (low < number < high if open_ends else low <= number <= high):
            between = f"between {low} and {high}" if open_ends else f"from {low:g} to {high:g}"
            raise SettingsError(
                f"DQSGD({name}={value!r}): expected a number {between}, got {value!r}; write for instance "
                f"{name}={example}"
            )
        object.__setattr__(self, name, number)


def _lanes_for(size: int) -> list[int]:
    """Widths in which ``size`` ranks have a level, in rising order."""
    return [bits for bits in WIDTHS if max_lane_sum(bits) >= size]


def _cost(bits: int) -> float:
    """Bits on the wire per element of lanes of ``bits``, in words that are full."""
    return 32 / lanes_per_word(bits)


def _layout(bucket: Bucket, bits: int) -> Layout:
    """The bucket's own layout with lanes of ``bits`` bits; norms lie where they did."""
    key = "layout of width", bits
    if key not in bucket.scratch:
        members = tuple(replace(member, bits=bits) for member in bucket.layout.members)
        bucket.scratch[key] = replace(bucket.layout, members=members)
    return bucket.scratch[key]


def _wire_bits(layout: Layout) -> float:
    return 32 * (layout.words_numel - WORDS_HEADER) / max(1, sum(member.numel for member in layout.members))


def _menu(bucket: Bucket, size: int) -> Menu:
    """The widths that differ in what this bucket costs with them, for ``size`` ranks."""
    key = "menu", size
    if key not in bucket.scratch:
        widths: list[Width] = []
        for bits in _lanes_for(size):
            width = Width(bits, max_lane_sum(bits) // size, _wire_bits(_layout(bucket, bits)))
            # Short blocks end in words that are not full: then two widths may cost the same.
            if widths and width.wire <= widths[-1].wire:
                widths.pop()
            widths.append(width)
        bucket.scratch[key] = Menu(tuple(widths))
    return bucket.scratch[key]


def _norms_and_state(bucket: Bucket) -> np.ndarray:
    """A float32 buffer that goes into one Max: the bucket's norms, which now lie at its front, then the state."""
    numel = bucket.layout.norms_numel + 2 * bit_rule.NUMBERS
    both = bucket.scratch.setdefault("norms and state", np.zeros(numel, np.float32))
    bucket.norms = both[: bucket.layout.norms_numel]
    return both


def _in_halves(numbers: np.ndarray) -> np.ndarray:
    """Integers below 2^48 as twice as many that float32 holds: the upper halves, then the lower."""
    upper, lower = np.divmod(numbers, CHECK_RANGE)
    return np.concatenate([upper, lower]).astype(np.float32)


def _whole(halves: np.ndarray) -> list[float]:
    """Undo ``_in_halves``."""
    upper, lower = halves.astype(np.float64).reshape(2, -1)
    return (upper * CHECK_RANGE + lower).tolist()


def _log2_norm(norms: np.ndarray) -> tuple[float | None, bool]:
    """log2 of the finite norms' length, None where that is zero; and whether all of them are finite.

    The sum is the exactly rounded one: it must not depend on how a rank's NumPy adds up.
    """
    finite = norms[np.isfinite(norms)].astype(np.float64)
    square = math.fsum((finite * finite).tolist())
    return log2(square) / 2 if square else None, finite.size == norms.size
