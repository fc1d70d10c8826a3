"""What ranks tell each other before they exchange, and how a difference is put into words.

Pure: the front ends move what ``pack`` makes with an allreduce in which every rank fills its own slot. An allreduce and
not an allgather, because it is the one collective that Horovod still runs after a rank has joined; that rank's slot
stays empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b

import numpy as np

from hvd_gqsgd.errors import DisagreementError, GQSGDError, SettingsError
from hvd_gqsgd.schemes.base import CHECK_RANGE, Scheme

MOST_LISTED = 5

#: Bytes of a slot for a statement in brief, for one in full, and for the digests of tensors.
BRIEF_BYTES = 2048
FULL_BYTES = 32768
DIGESTS_BYTES = 65536
_DIGEST_BYTES = 8


def tensor_id(name: str) -> int:
    """64 bits that stand for a tensor's name, the same in every process."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")


def digest(*parts: str) -> str:
    """Sixteen hexadecimal digits that stand for ``parts``."""
    return blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def check_value(*parts: str) -> int:
    """A check for a bucket's header: 1 .. 2^24 - 1."""
    return int(digest(*parts), 16) % (CHECK_RANGE - 1) + 1


@dataclass(frozen=True)
class Statement:
    """What one rank says of itself.

    settings: repr of the scheme; tensors: "name shape dtype" of each member, or their digest alone;
    problem: what went wrong here, empty if nothing.
    """

    settings: str
    tensors: tuple[str, ...]
    problem: str = ""

    @classmethod
    def of(cls, scheme: Scheme, tensors: Sequence[str], problem: str = "") -> Statement:
        return cls(settings=repr(scheme), tensors=tuple(tensors), problem=problem)

    def brief(self) -> Statement:
        """The same with the tensors' digest in place of their list: its size does not grow with the model."""
        return Statement(self.settings, (f"{len(self.tensors)} tensors {digest(*self.tensors)}",), self.problem)

    def to_bytes(self, limit: int) -> bytes:
        """JSON of at most ``limit`` bytes; what is too long is cut, the list of tensors first."""
        tensors, problem = list(self.tensors), self.problem
        while True:
            text = json.dumps(asdict(Statement(self.settings, tuple(tensors), problem))).encode()
            if len(text) <= limit:
                return text
            if tensors:
                del tensors[len(tensors) // 2 :]
            elif problem:
                problem = problem[: len(problem) // 2]
            else:
                raise ValueError(f"a statement of {len(text)} bytes does not fit {limit}")

    @classmethod
    def from_bytes(cls, text: bytes) -> Statement:
        read = json.loads(text)
        return cls(read["settings"], tuple(read["tensors"]), read["problem"])


@dataclass
class Differences:
    """What differs between the statements of several ranks (rank -> statement)."""

    statements: Mapping[int, Statement]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        problems = {r: s.problem for r, s in self.statements.items() if s.problem}
        self.lines += [f"{_ranks(ranks)}: {text}" for text, ranks in _group(problems).items()]
        settings = _group({r: s.settings for r, s in self.statements.items()})
        if len(settings) > 1:
            said = "; ".join(f"{_ranks(ranks)} got {text}" for text, ranks in settings.items())
            self.lines.append(f"expected the same compression settings on every rank, but {said}")
        everywhere = set.intersection(*(set(s.tensors) for s in self.statements.values()))
        odd = {r: tuple(t for t in s.tensors if t not in everywhere) for r, s in self.statements.items()}
        if any(odd.values()):
            said = "; ".join(f"{_ranks(ranks)} got {_some(tensors)}" for tensors, ranks in _group(odd).items())
            self.lines.append(f"expected the same tensors on every rank, but {said}")

    def __bool__(self) -> bool:
        return bool(self.lines)

    def __str__(self) -> str:
        return "; ".join(self.lines)


def pack(text: bytes, slot_bytes: int, size: int, rank: int) -> np.ndarray:
    """Zeros for ``size`` ranks, int32 (size, 1 + slot_bytes / 4), with ``text`` in the slot of ``rank``.

    A slot is the length in bytes plus one, then the bytes; so one that stayed empty is known.
    """
    slots = np.zeros((size, 1 + slot_bytes // 4), dtype=np.int32)
    slots[rank, 0] = len(text) + 1
    slots[rank, 1:] = np.frombuffer(text.ljust(slot_bytes, b"\0"), dtype=np.int32)
    return slots


def unpack(slots: np.ndarray) -> dict[int, bytes]:
    """What every present rank says, from the sum of all ranks' ``pack``."""
    return {rank: slot[1:].tobytes()[: slot[0] - 1] for rank, slot in enumerate(slots) if slot[0] > 0}


def digests_of(statement: Statement) -> bytes:
    """At most DIGESTS_BYTES that stand for the statement's tensors."""
    return b"".join(sorted(_by_digest(statement))[: DIGESTS_BYTES // _DIGEST_BYTES])


def only_odd(statement: Statement, said: Mapping[int, bytes]) -> Statement:
    """The statement with only those tensors that not every rank has, so that it is short whatever the model.

    said: each rank's ``digests_of``. Where one did not fit, tensors past its last digest are not judged.
    """
    common = set.intersection(*(_digests_in(text) for text in said.values()))
    ends = [text[-_DIGEST_BYTES:] for text in said.values() if len(text) == DIGESTS_BYTES]
    judged = {key: tensor for key, tensor in _by_digest(statement).items() if not ends or key <= min(ends)}
    return replace(statement, tensors=tuple(sorted(t for key, t in judged.items() if key not in common)))


def verdict(operation: str, statements: Mapping[int, Statement]) -> GQSGDError:
    """The exception for what ranks differ in, the same on every rank."""
    problems = {s.problem for s in statements.values()}
    if len(problems) == 1 and "" not in problems:
        return SettingsError(f"{operation}: {problems.pop()}")
    return DisagreementError(
        f"{operation}: {Differences(statements)}; give every rank the same settings and the same tensors"
    )


def _by_digest(statement: Statement) -> dict[bytes, str]:
    return {bytes.fromhex(digest(tensor)): tensor for tensor in statement.tensors}


def _digests_in(text: bytes) -> set[bytes]:
    return {text[i : i + _DIGEST_BYTES] for i in range(0, len(text), _DIGEST_BYTES)}


def _group(values: Mapping[int, object]) -> dict:
    groups: dict = {}
    for rank, value in values.items():
        groups.setdefault(value, []).append(rank)
    return groups


def _ranks(ranks: Sequence[int]) -> str:
    listed = ", ".join(map(str, ranks[:MOST_LISTED]))
    more = f" and {len(ranks) - MOST_LISTED} more" if len(ranks) > MOST_LISTED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {listed}{more}"


def _some(tensors: Sequence[str]) -> str:
    listed = ", ".join(tensors[:MOST_LISTED]) or "none of them"
    return f"{listed} and {len(tensors) - MOST_LISTED} more" if len(tensors) > MOST_LISTED else listed
