"""Ranks tell each other what they are about to do, by allreduces in which every rank fills its own slot.

An allreduce and not an allgather, because it is the one collective that Horovod still runs after a rank has joined;
that rank's slot stays empty. These calls block, so they stand where every rank passes: before the first decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import horovod.torch as hvd
import numpy as np
import torch

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.schemes.agreement import Differences, Statement, digest

BRIEF_BYTES = 2048
FULL_BYTES = 32768
DIGESTS_BYTES = 65536
DIGEST_BYTES = 8


@dataclass(frozen=True)
class Parties:
    """The ranks that have something to agree on.

    name: the same on every rank, and of no other agreement at the same time. operation: for messages.
    """

    process_set: hvd.ProcessSet
    name: str
    operation: str

    def agree(self, statement: Statement) -> list[int]:
        """Ranks that take part, if all of them say the same and none has a problem.

        Raises on every rank alike: DisagreementError with what differs, SettingsError where all have one problem.
        """
        brief = self._exchange(statement.brief(), BRIEF_BYTES, "brief")
        if Differences(brief):
            raise self.disagreement(statement)
        return sorted(brief)

    def disagreement(self, statement: Statement) -> Exception:
        """The exception for what ranks differ in, the same on every rank; every rank has to call this."""
        # First which tensors are not everybody's, so that the lists in words are short whatever the model.
        own = {bytes.fromhex(digest(tensor)): tensor for tensor in statement.tensors}
        said = self._gather(b"".join(sorted(own)[: DIGESTS_BYTES // DIGEST_BYTES]), DIGESTS_BYTES, "digests")
        common = set.intersection(*(_digests_in(text) for text in said.values()))
        odd = tuple(sorted(tensor for key, tensor in own.items() if key not in common))
        statements = self._exchange(replace(statement, tensors=odd), FULL_BYTES, "full")
        problems = {s.problem for s in statements.values()}
        if len(problems) == 1 and "" not in problems:
            return SettingsError(f"{self.operation}: {problems.pop()}")
        differences = Differences(statements)
        return DisagreementError(
            f"{self.operation}: {differences}; give every rank the same settings and the same tensors"
        )

    def order_of(self, order: Sequence[int], source: int) -> list[int]:
        """Rank ``source``'s ``order``, a permutation of the same length on every rank."""
        numbers = torch.tensor(order, dtype=torch.int32)
        if self.process_set.rank() != source:
            numbers.zero_()
        self._sum(numbers, "order")
        return numbers.tolist()

    def _exchange(self, statement: Statement, slot_bytes: int, kind: str) -> dict[int, Statement]:
        said = self._gather(statement.to_bytes(slot_bytes), slot_bytes, kind)
        return {rank: Statement.from_bytes(text) for rank, text in said.items()}

    def _gather(self, text: bytes, slot_bytes: int, kind: str) -> dict[int, bytes]:
        """What every present rank says. A slot is its length in bytes plus one, then the bytes."""
        slots = np.zeros((self.process_set.size(), 1 + slot_bytes // 4), dtype=np.int32)
        own = slots[self.process_set.rank()]
        own[0] = len(text) + 1
        own[1:] = np.frombuffer(text.ljust(slot_bytes, b"\0"), dtype=np.int32)
        self._sum(torch.from_numpy(slots), kind)
        return {rank: slot[1:].tobytes()[: slot[0] - 1] for rank, slot in enumerate(slots) if slot[0] > 0}

    def _sum(self, numbers: torch.Tensor, kind: str) -> None:
        name = f"hvd_gqsgd.agreement.{self.name}.{kind}"
        hvd.allreduce_(numbers, name=name, op=hvd.Sum, process_set=self.process_set)


def _digests_in(text: bytes) -> set[bytes]:
    return {text[i : i + DIGEST_BYTES] for i in range(0, len(text), DIGEST_BYTES)}
