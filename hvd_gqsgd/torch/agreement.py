"""Ranks tell each other what they are about to do (schemes.agreement), by Horovod's allreduce.

These calls block, so they stand where every rank passes: before the first decode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import horovod.torch as hvd
import torch

from hvd_gqsgd.schemes.agreement import (
    BRIEF_BYTES,
    DIGESTS_BYTES,
    FULL_BYTES,
    Differences,
    Statement,
    digests_of,
    only_odd,
    pack,
    unpack,
    verdict,
)


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
        digests = self._gather(digests_of(statement), DIGESTS_BYTES, "digests")
        statements = self._exchange(only_odd(statement, digests), FULL_BYTES, "full")
        return verdict(self.operation, statements)

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
        slots = pack(text, slot_bytes, self.process_set.size(), self.process_set.rank())
        self._sum(torch.from_numpy(slots), kind)
        return unpack(slots)

    def _sum(self, numbers: torch.Tensor, kind: str) -> None:
        name = f"hvd_gqsgd.agreement.{self.name}.{kind}"
        hvd.allreduce_(numbers, name=name, op=hvd.Sum, process_set=self.process_set)
