"""What GradiVeQ remembers of each tensor, and how the ranks see to it that all remember the same.

    warming    before step ``warm_up``                                     nothing is kept
    sampling   ``sample`` steps                                            slices of means are kept: samples (S, K)
    using      ``compress`` steps, or fewer where the basis no longer fits mean (K,) and basis (K, d)

Memory is made of numbers that all ranks have decoded, so it is the same on all of them, until one is replaced, comes
late or loads something else. Each step therefore begins with a Max of what they have (``agree``). Where phases or
samples differ, all ranks sample anew. Where bases differ, which is what singular vectors of different machines do, all
take that of the first rank; so it need not travel where they don't.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from hvd_gqsgd.kernels.layout import NORMS_HEADER
from hvd_gqsgd.maths import principal
from hvd_gqsgd.schemes.base import CHECK_RANGE, Bucket, Collective, Max, Sum, World

#: Numbers of each tensor in the header: phase and digest, each with its complement, steps in this phase, 1 - loss.
_NUMBERS = 6


class Phase(IntEnum):
    """What a tensor's exchange is for."""

    WARMING = 0
    SAMPLING = 1
    USING = 2


@dataclass(frozen=True)
class Slicing:
    """How a kernel is cut: ``count`` slices of ``numel`` elements, of which ``sampled`` a step are kept.

    filters: where its shape has them, as in maths.principal. most: columns of a basis.
    """

    shape: tuple[int, ...]
    filters: str
    numel: int
    count: int
    sampled: int
    most: int


@dataclass(frozen=True)
class Schedule:
    """Lengths of the phases in steps, and what makes a basis good enough; as in GradiVeQ's settings."""

    warm_up: int
    sample: int
    compress: int
    loss: float
    centre: bool
    refresh: float | None


class Projection(NamedTuple):
    """Coefficients (count, dims) in the basis with this digest, and the part of the tensor's square that they miss."""

    coefficients: np.ndarray
    loss: float
    digest: int


class Subspace:
    """One tensor's memory: ``state``, int64 [phase, steps in it, digest], and the arrays of its phase.

    A memory that does not fit the settings counts as empty.
    """

    def __init__(self, memory: dict[str, np.ndarray], slicing: Slicing, schedule: Schedule) -> None:
        self.memory, self.slicing, self.schedule = memory, slicing, schedule
        if not self._fits():
            self._enter(Phase.WARMING)

    @property
    def phase(self) -> Phase:
        return Phase(self.memory["state"][0])

    @property
    def steps(self) -> int:
        """How many this phase has had."""
        return int(self.memory["state"][1])

    @property
    def digest(self) -> int:
        """1 .. 2^24 - 1, of the arrays."""
        return int(self.memory["state"][2])

    @property
    def dims(self) -> int:
        """Columns of the basis: 0 where there is none, or none that pays."""
        return self.memory["basis"].shape[1] if self.phase is Phase.USING else 0

    def slices(self, flat: np.ndarray) -> np.ndarray:
        """(count, numel) of the tensor (elements,)."""
        return principal.to_slices(flat, self.slicing.shape, self.slicing.filters, self.slicing.numel)

    @property
    def basis(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (numel,) and basis (numel, dims), where there is one."""
        return self.memory["mean"], self.memory["basis"]

    def project(self, flat: np.ndarray) -> Projection:
        """Of the tensor (elements,) on this rank."""
        return Projection(*principal.project(self.slices(flat), *self.basis), self.digest)

    def restart(self, step: int) -> None:
        """Forget everything, in agreed step ``step``."""
        self._enter(Phase.WARMING if step < self.schedule.warm_up else Phase.SAMPLING)

    def use(self, mean: np.ndarray, basis: np.ndarray, steps: int = 0) -> None:
        """Go on with this basis."""
        self._enter(Phase.USING, steps)
        self.memory["mean"], self.memory["basis"] = mean, basis
        self.memory["state"][2] = _digest(mean, basis)

    def give_up(self) -> None:
        """No basis for the rest of this phase."""
        self.use(self.memory["mean"], self.memory["basis"][:, :0], self.steps)

    def agree_on_steps(self, steps: int) -> None:
        self.memory["state"][1] = steps

    def advance(self, mean: np.ndarray) -> None:
        """A step is done; mean: of the tensor over all ranks, (elements,), the same on all of them."""
        state = self.memory["state"]
        if self.phase is Phase.USING:
            state[1] += 1
            if state[1] >= self.schedule.compress:
                self._enter(Phase.SAMPLING)
        elif self.phase is Phase.SAMPLING and np.isfinite(mean).all():
            self._add(mean)

    def _add(self, mean: np.ndarray) -> None:
        state, cut = self.memory["state"], self.slicing
        # Other slices in each step, until all of them have had their turn.
        chosen = (np.arange(cut.sampled) * cut.count // cut.sampled + state[1]) % cut.count
        rows = self.memory["samples"][state[1] * cut.sampled :][: cut.sampled]
        rows[:] = self.slices(mean)[chosen]
        state[1] += 1
        state[2] = _digest(state, rows)
        if state[1] == self.schedule.sample:
            fit = principal.components(self.memory["samples"], self.schedule.loss, cut.most, self.schedule.centre)
            self.use(*fit)

    def _enter(self, phase: Phase, steps: int = 0) -> None:
        self.memory.clear()
        self.memory["state"] = np.array([phase, steps, 1], np.int64)
        if phase is Phase.SAMPLING:
            rows = self.schedule.sample * self.slicing.sampled
            self.memory["samples"] = np.zeros((rows, self.slicing.numel), np.float32)

    def _fits(self) -> bool:
        """Whether the arrays of the phase are there, in the shapes that the settings give them."""
        memory, cut = self.memory, self.slicing
        shapes = {name: array.shape for name, array in memory.items()}
        if shapes.get("state") != (3,) or memory["state"][0] not in list(Phase):
            return False
        if self.phase is Phase.SAMPLING:
            fits = shapes.get("samples") == (self.schedule.sample * cut.sampled, cut.numel)
            return fits and 0 <= self.steps < self.schedule.sample
        if self.phase is Phase.USING:
            bases = [(cut.numel, dims) for dims in range(cut.most + 1)]
            return shapes.get("mean") == (cut.numel,) and shapes.get("basis") in bases
        return True


def agree(
    bucket: Bucket, spaces: Mapping[int, Subspace], projected: Mapping[int, Projection], world: World, valid: bool
) -> Generator[Collective, Any, int]:
    """Make the ranks' subspaces the same, and return the step that all take.

    spaces, projected: by number of the member; the latter of this rank, where it has a basis.

    A basis is no longer used where every rank's
    loss is above ``refresh``: a minimum, which one noisy rank can't reach alone and for which zeros of joined ranks
    count nothing. One that did not last as long as its samples took is not replaced before the phase's end.
    """
    numbers = np.zeros((len(spaces), _NUMBERS), np.float32)
    for row, (index, space) in zip(numbers, spaces.items(), strict=True):
        loss = projected[index].loss if index in projected else 0.0
        good = 1.0 if math.isnan(loss) else max(0.0, 1.0 - loss)
        phase = space.phase + 1
        row[:] = phase, CHECK_RANGE - phase, space.digest, CHECK_RANGE - space.digest, space.steps, good
    bucket.write_header(valid)
    first = np.array([world.size - world.rank], np.float32)
    header = np.concatenate([bucket.norms[:NORMS_HEADER], first, numbers.reshape(-1)])
    yield Max(header)
    bucket.norms[:NORMS_HEADER] = header[:NORMS_HEADER]
    step = bucket.read_header()
    unequal = []
    for space, row in zip(spaces.values(), header[NORMS_HEADER + 1 :].reshape(-1, _NUMBERS).tolist(), strict=True):
        same_phase, same_digest = row[0] == CHECK_RANGE - row[1], row[2] == CHECK_RANGE - row[3]
        if not same_phase or space.phase is Phase.WARMING or (space.phase is Phase.SAMPLING and not same_digest):
            space.restart(step)
        elif space.phase is Phase.USING:
            space.agree_on_steps(int(row[4]))
            if not same_digest:
                unequal.append(space)
            elif space.dims and space.schedule.refresh is not None and 1 - row[5] > space.schedule.refresh:
                if space.steps < space.schedule.sample:
                    space.give_up()
                else:
                    space.restart(step)
    if unequal:
        yield from _take_over(unequal, header[NORMS_HEADER] == world.size - world.rank)
    return step


def _take_over(spaces: Sequence[Subspace], first: bool) -> Generator[Collective, Any, None]:
    """All ranks get the basis of the ``first`` that is present: the others add zeros to it."""
    lengths = [1 + space.slicing.numel * (1 + space.slicing.most) for space in spaces]
    buffer = np.zeros(sum(lengths), np.float32)
    parts = np.split(buffer, np.cumsum(lengths)[:-1])
    if first:
        for space, part in zip(spaces, parts, strict=True):
            held = np.concatenate([[space.dims], space.memory["mean"], space.memory["basis"].reshape(-1)])
            part[: held.size] = held
    yield Sum(buffer)
    for space, part in zip(spaces, parts, strict=True):
        numel, dims = space.slicing.numel, int(part[0])
        basis = part[1 + numel :][: numel * dims].reshape(numel, dims)
        space.use(part[1 : 1 + numel].copy(), basis.copy(), space.steps)


def _digest(*arrays: np.ndarray) -> int:
    whole = blake2b(digest_size=8)
    for array in arrays:
        whole.update(np.ascontiguousarray(array).view(np.uint8).data)
    return int.from_bytes(whole.digest(), "little") % (CHECK_RANGE - 1) + 1
