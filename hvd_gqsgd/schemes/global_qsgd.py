"""Global-QSGD with standard dithering (arXiv 2305.18627, section 4), with one norm per block.

    M[b] = max_i max_j |x_ij| over block b                         one Max
    q_i  = floor(x_i * L / M + u_i),  L = (2^(bits-1) - 1) // n    E[q_i] = x_i * L / M
    mean = M / (L * n) * sum_i q_i                                 one Sum, exact in the lanes of int32 words

Unbiased, and the variance of the mean is at most (M / L)^2 / (4 n) per element. Blocks are rotated first, so that M is
small beside their elements (maths.rotation), and the ranks' u_i are drawn together, so that their errors cancel
(maths.dither). With error feedback each rank adds to x_i what it could not send the last time (maths.quantize).

exchange="two_phase" adds the codes up where no lane limits them (two_phase): L = 2^(bits-1) - 1 whatever n is.

levels="exponential" is the paper's other dithering, with levels M / 2, M / 4, ... (maths.exponential).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.maths import exponential, quantize
from hvd_gqsgd.maths import levels as uniform
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.schemes import global_norm, two_phase
from hvd_gqsgd.schemes.base import Bucket, Exchange, Kind, Max, Sum, World
from hvd_gqsgd.schemes.blocks import BlockScheme
from hvd_gqsgd.schemes.measure import Measured, measure
from hvd_gqsgd.schemes.rules import Rule, Widths, as_rules, width_of

EXCHANGES = ("ring", "two_phase", None)
DEFAULT_BITS = 8


@dataclass(frozen=True, kw_only=True)
class GlobalQSGD(BlockScheme):
    """Settings of Global-QSGD.

    bits: width of an element on the wire, 2 to 16, or rules that give each tensor its own (``schemes.rules``). Headroom
        for the sum is taken from it: n ranks have (2^(bits-1) - 1) // n levels on each side of zero.
    exchange: "ring" (the default) sums words with Horovod's allreduce. "two_phase" hands shares of them round, adds
        them up and sends their mean on, rounded once more: no headroom, so all 2^(bits-1) - 1 levels for any n. Not
        after hvd.join.
    levels: "uniform", or "exponential" for 2^(bits-1) - 1 powers of two on each side of zero: errors are relative to
        each element and not to its block's largest. Takes 3 to 8 bits, and "two_phase", which is then the default.
    norm: (q, p) of the global norm ||x||_{q,p} that levels are fractions of (``schemes.global_norm``); other than the
        largest magnitude, (math.inf, math.inf), only with "two_phase" and without rotation.
    block_size: elements that share one float32 norm. Smaller blocks mean less error and 32 / block_size bits more.
        At most 4096 with rotation or error feedback.
    rotation: "hadamard" spreads a block's largest elements over all of it, which pays where few are large; None does
        not, and keeps zeros exactly zero.
    dither: "correlated" (the default), "independent", or "nearest", which is none, and not unbiased: the default with
        error feedback, which would not settle with a dither at one level.
    error_feedback: add to each gradient what was left over of the last one; takes 4 bytes per element.
    min_numel: tensors with fewer elements are sent as Horovod would send them.
    seed: of dither and rotation, which are functions of (seed, step, tensor, rank) and of (seed, tensor).
    """

    bits: Widths = DEFAULT_BITS
    exchange: str | None = None
    levels: str = "uniform"
    norm: tuple[float, float] = global_norm.LARGEST
    block_size: int = 256
    rotation: str | None = "hadamard"
    dither: str | None = None
    error_feedback: bool = False
    min_numel: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.bits, (tuple, list, dict)):
            object.__setattr__(self, "bits", as_rules(type(self).__name__, self.bits, DEFAULT_BITS))
        else:
            self._require_integer("bits", uniform.MIN_BITS, uniform.MAX_BITS)
        self._require_one_of("exchange", EXCHANGES)
        self._require_one_of("levels", quantize.LEVELS)
        self._check_blocks()
        if self.exchange is None:
            object.__setattr__(self, "exchange", "two_phase" if self.levels == "exponential" else "ring")
        if self.levels == "exponential":
            self._require_powers()
        self._require_norm()

    def _require_powers(self) -> None:
        """Raise SettingsError unless everything else goes with exponential levels."""
        said = f"{type(self).__name__}(levels='exponential'"
        low, high = exponential.MIN_BITS, exponential.MAX_BITS
        for bits in (rule.bits if isinstance(rule, Rule) else rule for rule in self._rules):
            if bits is not None and not low <= bits <= high:
                raise SettingsError(
                    f"{said}, bits={self.bits!r}): expected widths from {low} to {high}, got {bits}; "
                    f"write for instance bits={min(max(bits, low), high)}, or levels='uniform'"
                )
        if self.exchange != "two_phase":
            raise SettingsError(
                f"{said}, exchange={self.exchange!r}): expected exchange='two_phase', got {self.exchange!r}; powers of "
                "two do not add up to one, so no allreduce can add up their codes; write exchange='two_phase' or leave "
                "it out"
            )

    def _require_norm(self) -> None:
        """Raise SettingsError unless the norm is one and everything else goes with it; store it as a pair of Order."""
        object.__setattr__(self, "norm", global_norm.as_orders(type(self).__name__, self.norm))
        if self.norm == global_norm.LARGEST:
            return
        for name, wanted in (("exchange", "two_phase"), ("rotation", None)):
            got = getattr(self, name)
            if got != wanted:
                raise SettingsError(
                    f"{type(self).__name__}(norm={self.norm!r}, {name}={got!r}): expected {name}={wanted!r} with any "
                    f"norm but the largest magnitude, got {got!r}; write {name}={wanted!r}, or leave norm out"
                )

    @property
    def _rules(self) -> tuple[Rule | int, ...]:
        return (self.bits,) if isinstance(self.bits, int) else self.bits  # type: ignore[return-value]

    def bits_of(self, name: str, shape: Sequence[int]) -> int | None:
        return None if self._too_small(shape) else width_of(self._rules, name, shape)

    def layout_settings(self) -> dict[str, Any]:
        return {**super().layout_settings(), "levels": self.levels}

    @property
    def on_host(self) -> bool:
        return self.exchange == "two_phase"

    @property
    def stages(self) -> Sequence[Sequence[Kind]]:
        if not self.on_host:
            return ()
        first, *rest = two_phase.STAGES
        return [first, *global_norm.stages(self.norm), *rest]

    def check_world(self, size: int) -> None:
        if self.exchange == "two_phase":
            return
        for rule in self._rules:
            bits = rule.bits if isinstance(rule, Rule) else rule
            if bits is not None:
                uniform.count_levels(bits, size)

    def collectives(self, bucket: Bucket, kernels: Kernels, world: World, *, valid: bool = True) -> Exchange:
        bucket.write_header(valid)
        turn = self._turn(bucket.step, world)
        kernels.block_norms(bucket.layout, bucket.tensors, bucket.norms, turn, bucket.residuals)
        if self.exchange == "ring":
            yield Max(bucket.norms)
        else:
            yield from two_phase.agree_on_norms(bucket, world)
        turn = self._turn(bucket.read_header(), world)
        if self.norm != global_norm.LARGEST:
            yield from global_norm.widen(bucket, self.norm)
        bucket.count_this_rank()
        kernels.encode(bucket.layout, bucket.tensors, bucket.norms, bucket.words, turn, bucket.residuals)
        if self.exchange == "ring":
            yield Sum(bucket.words)
        else:
            bucket.scratch["agreed norms"] = bucket.norms.copy()
            yield from two_phase.exchange(bucket, kernels, world, turn)

    def decode(self, bucket: Bucket, kernels: Kernels, world: World, out: Sequence[Buffer], *, scale: float) -> None:
        turn, factor = self._turn(bucket.step, world), bucket.per_contributor(scale)
        kernels.decode(bucket.layout, out, bucket.words, bucket.norms, turn, factor=factor)

    def measure(self, bucket: Bucket, world: World) -> Measured:
        if self.exchange == "ring":
            return super().measure(bucket, world)
        layout, agreed = bucket.layout, bucket.scratch["agreed norms"]
        first = measure(layout, agreed, bucket.words, 1, world.size)
        second = measure(replace(layout, dither="independent"), bucket.norms, bucket.words, 1, 1)
        return second._replace(squared_error=first.squared_error + second.squared_error)

    def _turn(self, step: Any, world: World) -> Turn:
        return Turn(self.seed, step, world.rank, world.size, None if self.exchange == "ring" else 1)
