"""Who exchanges in a cell of the training benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Real Horovod between processes; one process, whose buffers are reduced in ``hvd_gqsgd.worlds.loopback``.
REAL, LOOPBACK = "horovod", "loopback"


@dataclass(frozen=True)
class World:
    """ranks: how many there are. kind: REAL or LOOPBACK."""

    ranks: int
    kind: str

    def __str__(self) -> str:
        return f"{self.ranks} ranks" if self.kind == REAL else f"{self.ranks} workers in one process"


def world_of(cell: dict[str, Any]) -> World:
    """Of a cell of any age: the first ones have the ranks alone, which were real."""
    return World(**cell["world"]) if "world" in cell else World(cell["ranks"], REAL)
