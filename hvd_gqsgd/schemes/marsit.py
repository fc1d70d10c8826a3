"""Marsit: one bit per element, merged without bias, with global compensation (arXiv 2204.06787).

    u_i = g_i + c_i                                      what rank i wants to happen, float32
    every sync_every-th step                             result = mean_i u_i             c_i = 0
    all others       w = merge_i sign(u_i), E[w] = mean_i sign(u_i)     result = s * w   c_i = u_i - s * w

The compensation holds what this rank wanted and the *common* result did not do, so that over all steps the results and
mean c add up to the mean gradients. The signs are merged where their share of the words is collected:

    signs of share r  ->  rank r, which merges n of them (maths.signs)    one AllToAll
    merged signs of share r                                               one AllGather

Units are the gradient's, because the optimizer's learning rate is applied to the result: divided by that rate, the
paper's eta_s is s, and its eta_l times a gradient is the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.kernels import signs as sign_kernels
from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.kernels.signs import SignKernels
from hvd_gqsgd.maths import floats, signs
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.schemes import presence
from hvd_gqsgd.schemes.base import AllGather, AllToAll, Bucket, Exchange, Kind, Max, Scheme, Sum, World
from hvd_gqsgd.schemes.measure import Measured

#: Elements that share a norm, which here says no more than whether they are finite.
BLOCK_SIZE = 1 << 24
#: With lr=None: the step in units of the root mean square of the gradient, on the rank where that is largest. Of the
#: gradient and not of a result: that has the compensation in it, as large as the last step, and so feeds upon itself.
RELATIVE_STEP = 4.0
_OUTCOME = "marsit outcome"
#: Squares that are summed in float32.
_ROW = 4096
#: The largest step, which float32 holds.
_LARGEST = 3e38


@dataclass
class _Outcome:
    """What an exchange left for ``decode``, by the number of the member; one in neither is NaN.

    means: float32 (numel,). words: int32, and the size of the step that their signs stand for.
    """

    means: dict[int, np.ndarray] = field(default_factory=dict)
    words: dict[int, tuple[np.ndarray, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Marsit(Scheme):
    """Settings of Marsit.

    sync_every: every so many steps, beginning with the first, gradients are averaged in full precision and the
        compensation starts again at zero; None for the first step alone. An element takes (31 + K) / K bits.
    lr: size of a one-bit step of every element, in units of the gradient; None for one size per tensor and step,
        ``RELATIVE_STEP`` times the root mean square of the gradient.
    min_numel: tensors with fewer elements are sent as Horovod would send them.
    seed: of the merges, which are functions of (seed, step, tensor, hop).

    Takes 4 bytes per element on every rank for the compensation. Not after hvd.join, but for full-precision steps.
    """

    sync_every: int | None = 100
    lr: float | None = None
    min_numel: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sync_every is not None:
            self._require_integer("sync_every", 1, (1 << 63) - 1)
        if self.lr is not None:
            self._require_step("lr")
        self._require_integer("min_numel", 0, (1 << 63) - 1)
        self._require_integer("seed", 0, (1 << 64) - 1)

    def _require_step(self, name: str) -> None:
        value = getattr(self, name)
        good = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
        # In float32, where the sums are made.
        if not good or not 0 < np.float32(value) < np.inf:
            raise SettingsError(
                f"Marsit({name}={value!r}): expected a positive float, the size of a step in units of the gradient, or "
                f"None for one that follows the gradients; got {value!r}; write for instance {name}=0.001"
            )
        object.__setattr__(self, name, float(value))

    @property
    def on_host(self) -> bool:
        return True

    @property
    def stages(self) -> Sequence[Sequence[Kind]]:
        nothing, average, signs_of, merged = (None, ""), (Sum, "float32"), (AllToAll, "int32"), (AllGather, "int32")
        return [[(Max, "float32")], [average, signs_of, nothing], [merged, nothing]]

    @property
    def remembers(self) -> bool:
        return True

    @property
    def cuts_tensors(self) -> bool:
        """No: the compensation and the size of a step belong to a tensor, wherever buckets end."""
        return False

    def bits_of(self, name: str, shape: Sequence[int]) -> int | None:
        return None if math.prod(shape) < max(1, self.min_numel) else 1

    def layout_settings(self) -> dict[str, Any]:
        return {"block_size": BLOCK_SIZE, "rotated": False, "dither": "nearest"}

    def check_world(self, size: int) -> None:
        """Any size will do."""

    def collectives(self, bucket: Bucket, kernels: Kernels, world: World, *, valid: bool = True) -> Exchange:
        layout, misfit = bucket.layout, _misfit(bucket)
        bucket.write_header(valid and not misfit)
        kernels.block_norms(layout, bucket.tensors, bucket.norms, Turn(self.seed, bucket.step, 0, 1))
        sizes = np.array([self._size(tensor) for tensor in bucket.tensors], dtype=np.float32)
        present = yield from presence.largest([bucket.norms, sizes], world)
        try:
            step = bucket.read_header()
        except DisagreementError as error:
            if misfit:
                raise DisagreementError(misfit) from error
            raise
        # One that is not finite on some rank is NaN on all, and nothing is remembered of it.
        finite = [i for i in range(len(sizes)) if not np.isinf(bucket.norms[layout.norms_of(i)]).any()]
        outcome = bucket.scratch[_OUTCOME] = _Outcome()
        if not finite:
            return
        if step == 0 if self.sync_every is None else step % self.sync_every == 0:
            yield from _average(bucket, finite, outcome)
        else:
            presence.require_all(bucket, world, present)
            yield from self._vote(bucket, finite, sizes.tolist(), sign_kernels.beside(kernels), world, step, outcome)

    def decode(self, bucket: Bucket, kernels: Kernels, world: World, out: Sequence[Buffer], *, scale: float) -> None:
        outcome: _Outcome = bucket.scratch[_OUTCOME]
        ones = sign_kernels.beside(kernels)
        for index, (member, target) in enumerate(zip(bucket.layout.members, out, strict=True)):
            if index in outcome.words:
                words, size = outcome.words[index]
                ones.expand(words, size * scale, target)
            elif index in outcome.means:
                target[...] = floats.from_float64(outcome.means[index] * np.float64(scale), member.dtype)
            else:
                target[...] = floats.from_float64(np.array([np.nan]), member.dtype)

    def measure(self, bucket: Bucket, world: World) -> Measured:
        """The error of a one-bit step is not known: what it would be an error of travels in no form."""
        outcome: _Outcome = bucket.scratch[_OUTCOME]
        squares = [float(np.square(mean, dtype=np.float64).sum()) for mean in outcome.means.values()]
        squares += [size**2 * bucket.layout.members[index].numel for index, (_, size) in outcome.words.items()]
        norms = bucket.norms[bucket.layout.norms_offsets[0] :] if bucket.layout.members else bucket.norms[:0]
        error = math.nan if outcome.words else 0.0
        return Measured(error, math.fsum(squares), norms.size, int(np.count_nonzero(np.isinf(norms))))

    def _size(self, tensor: np.ndarray) -> float:
        """What this rank proposes for a step."""
        if self.lr is not None:
            return self.lr
        size = RELATIVE_STEP * _root_mean_square(floats.to_float32(tensor))
        # What MPI's maximum does with NaN is undefined, and the norms have it.
        return min(size, _LARGEST) if math.isfinite(size) else 0.0

    def _vote(
        self,
        bucket: Bucket,
        members: Sequence[int],
        sizes: Sequence[float],
        kernels: SignKernels,
        world: World,
        step: int,
        outcome: _Outcome,
    ) -> Exchange:
        """One bit of each element from every rank, and one for all of them."""
        lengths = [signs.count_words(member.numel) for member in bucket.layout.members]
        words = np.empty(sum(lengths[index] for index in members), dtype=np.int32)
        for index, part in _parts(words, members, lengths):
            memory, tensor = bucket.memory[index], bucket.tensors[index]
            before = memory["compensation"] if "compensation" in memory else np.zeros(tensor.size, dtype=np.float32)
            # Arrays that were loaded may be read only, which compiled code would not notice.
            memory["compensation"] = np.require(before, requirements=["C", "W"])
            kernels.pack(tensor, memory["compensation"], part)
        bounds = [words.size * rank // world.size for rank in range(world.size + 1)]
        received = yield AllToAll(words, [end - start for start, end in pairwise(bounds)])
        own = slice(bounds[world.rank], bounds[world.rank + 1])
        rows, merged = received.reshape(world.size, -1), np.empty(own.stop - own.start, dtype=np.int32)
        ends = list(accumulate((lengths[index] for index in members), initial=0))
        for index, (start, end) in zip(members, pairwise(ends), strict=True):
            low, high = max(start, own.start), min(end, own.stop)
            if low < high:
                here = slice(low - own.start, high - own.start)
                own_id = bucket.layout.members[index].tensor_id
                kernels.merge(
                    rows[:, here],
                    merged[here],
                    seed=self.seed,
                    step=step,
                    tensor_id=own_id,
                    first_word=low - start,
                )
        merged = yield AllGather(merged)
        for index, part in _parts(merged, members, lengths):
            size, memory = sizes[index], bucket.memory[index]
            # Not before the last collective is there: a step that fails on the way may be made again.
            kernels.compensate(bucket.tensors[index], memory["compensation"], part, size)
            outcome.words[index] = part, size


def _average(bucket: Bucket, members: Sequence[int], outcome: _Outcome) -> Exchange:
    """The mean of u in full precision. A 1 in front makes the sum count the ranks in it."""
    lengths = [member.numel for member in bucket.layout.members]
    flat = np.empty(1 + sum(lengths[index] for index in members), dtype=np.float32)
    flat[0] = 1
    for index, part in _parts(flat[1:], members, lengths):
        part[...] = floats.to_float32(bucket.tensors[index])
        part += bucket.memory[index].get("compensation", 0)
    yield Sum(flat)
    for index, part in _parts(flat[1:], members, lengths):
        part /= flat[0]
        outcome.means[index], memory = part, bucket.memory[index]
        if "compensation" in memory:
            memory["compensation"] = np.zeros_like(part)


def _parts(flat: np.ndarray, members: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Each member with its own elements of ``flat``, in which they lie one after the other."""
    ends = accumulate((lengths[index] for index in members), initial=0)
    for index, (start, end) in zip(members, pairwise(ends), strict=True):
        yield index, flat[start:end]


def _root_mean_square(x: np.ndarray) -> float:
    """Of float32 (numel,); NaN or infinity where x has one. The same for any number of threads, unlike BLAS."""
    whole = x[: x.size // _ROW * _ROW].reshape(-1, _ROW)
    rest = x[whole.size :]
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(np.einsum("ij,ij->i", whole, whole).sum(dtype=np.float64) + np.einsum("i,i->", rest, rest))
        # Squares that float32 has in full.
        if not 1e-30 * x.size < squares < math.inf:
            squares = float(np.square(x, dtype=np.float64).sum())
    return math.sqrt(squares / max(1, x.size))


def _misfit(bucket: Bucket) -> str:
    """What is wrong with the memory of this rank; empty if nothing."""
    for name, member, memory in zip(bucket.names, bucket.layout.members, bucket.memory, strict=True):
        got = memory.get("compensation")
        if got is not None and (got.shape != (member.numel,) or got.dtype != np.float32):
            return (
                f"Marsit: allreduce of {name!r}: expected its saved compensation as float32 ({member.numel},), got "
                f"{got.dtype} {got.shape}; load the state that was saved with this model, or none on any rank"
            )
    return ""
