"""Ranks tell each other what they are about to do, by allreduces in which every rank fills its own slot.

An allreduce and not an allgather, because it is the one collective that Horovod still runs after a rank has joined;
that rank's slot stays empty. These calls block, so they stand where every rank passes: before the first decode.
"""

from __future__ import annotations

from collections.abc import Sequence

import horovod.torch as hvd
import numpy as np
import torch

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.schemes.agreement import Differences, Statement

BRIEF_BYTES = 2048
FULL_BYTES = 65536


def agree(statement: Statement, process_set: hvd.ProcessSet, operation: str) -> list[int]:
    """Ranks that take part, if all of them say the same and none has a problem.

    Raises on every rank alike: DisagreementError with what differs, SettingsError where all have the same problem.
    """
    brief = _gather(statement.brief(), BRIEF_BYTES, process_set, "brief")
    if Differences(brief):
        raise _error(statement, process_set, operation)
    return sorted(brief)


def disagreement(statement: Statement, process_set: hvd.ProcessSet, operation: str) -> Exception:
    """The exception for an exchange that failed, the same on every rank; every rank has to call this."""
    return _error(statement, process_set, operation)


def _error(statement: Statement, process_set: hvd.ProcessSet, operation: str) -> Exception:
    statements = _gather(statement, FULL_BYTES, process_set, "full")
    problems = {s.problem for s in statements.values()}
    if len(problems) == 1 and "" not in problems:
        return SettingsError(f"{operation}: {problems.pop()}")
    differences = Differences(statements)
    return DisagreementError(f"{operation}: {differences}; give every rank the same settings and the same tensors")


def broadcast_order(order: Sequence[int], source: int, process_set: hvd.ProcessSet) -> list[int]:
    """Rank ``source``'s ``order``, a permutation of the same length on every rank, which may join meanwhile."""
    numbers = torch.tensor(order, dtype=torch.int32)
    if process_set.rank() != source:
        numbers.zero_()
    hvd.allreduce_(numbers, name="hvd_gqsgd.agreement.order", op=hvd.Sum, process_set=process_set)
    return numbers.tolist()


def _gather(statement: Statement, slot_bytes: int, process_set: hvd.ProcessSet, kind: str) -> dict[int, Statement]:
    """Every present rank's statement. A slot is its length in bytes plus one, then the bytes."""
    text = statement.to_bytes(slot_bytes)
    slots = np.zeros((process_set.size(), 1 + slot_bytes // 4), dtype=np.int32)
    own = slots[process_set.rank()]
    own[0] = len(text) + 1
    own[1:] = np.frombuffer(text.ljust(slot_bytes, b"\0"), dtype=np.int32)
    hvd.allreduce_(torch.from_numpy(slots), name=f"hvd_gqsgd.agreement.{kind}", op=hvd.Sum, process_set=process_set)
    return {
        rank: Statement.from_bytes(slot[1:].tobytes()[: slot[0] - 1]) for rank, slot in enumerate(slots) if slot[0] > 0
    }
