"""Ways to split the ranks of an MPI job into groups for ``hvd.init(comm=...)``, and who then is who."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpi4py import MPI

WORLD = MPI.COMM_WORLD

#: name -> the group of a rank of the world, and its place there.
_SPLITS = {
    "odd and even": lambda rank: (rank % 2, rank),
    "odd and even, last first": lambda rank: (rank % 2, -rank),
    "everyone, last first": lambda rank: (0, -rank),
}

#: The list comes last: Horovod keeps one for the rest of the process, whatever ``hvd.init`` is given after it.
SPLITS = (*_SPLITS, "lists of ranks")

#: Of each group's own compression, at the same time and under the same names.
BITS = (8, 6)


@dataclass(frozen=True)
class Group:
    """What this rank belongs to. comm: for ``hvd.init``. members: ranks of the world, in the order of Horovod's."""

    split: str
    number: int
    comm: MPI.Comm | Sequence[int]
    members: list[int]

    @property
    def settings(self) -> dict[str, int]:
        """Of no other group in any split: for settings that it knows, Horovod's tape runs a graph that it has kept."""
        return {"bits": BITS[self.number], "seed": len(BITS) * SPLITS.index(self.split) + self.number}

    @property
    def rank(self) -> int:
        return self.members.index(WORLD.rank)

    @property
    def is_all(self) -> bool:
        return len(self.members) == WORLD.size


def split(name: str) -> Group:
    """This rank's group; every rank of the world calls this."""
    as_lists = name not in _SPLITS
    number, key = _SPLITS["odd and even, last first" if as_lists else name](WORLD.rank)
    comm = WORLD.Split(number, key)
    members = comm.allgather(WORLD.rank)
    return Group(name, number, members if as_lists else comm, members)
