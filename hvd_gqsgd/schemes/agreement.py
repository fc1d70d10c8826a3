"""What ranks tell each other before they exchange, and how a difference is put into words.

Pure: bytes in and out; the front ends move them with an allreduce in which every rank fills its own slot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b

from hvd_gqsgd.schemes.base import CHECK_RANGE, Scheme

MOST_LISTED = 5


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
