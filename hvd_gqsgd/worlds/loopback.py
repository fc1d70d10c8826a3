"""n virtual ranks in one process, in lockstep, on NumPy buffers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from hvd_gqsgd.schemes.base import AllGather, AllToAll, Collective, Exchange, Max, Sum


def run(exchanges: Sequence[Exchange | None]) -> int:
    """Drive one generator per rank to its end; reductions are applied in place to every rank's buffer.

    exchanges: one per rank of the world; None for a rank that has joined and contributes zeros. Integer sums wrap as
    an allreduce's do. Returns what rank 0 sent, in bytes of an allreduce. Raises AssertionError where ranks ask for
    different collectives, or for others than allreduces though one has joined.
    """
    running = [e for e in exchanges if e is not None]
    absent = len(running) < len(exchanges)
    results: list[Any] = [None] * len(running)
    sent_bytes = 0
    while True:
        asked = [_resume(e, result) for e, result in zip(running, results, strict=True)]
        present = [a for a in asked if a is not None]
        if not present:
            return sent_bytes
        kinds = {(type(a), a.buffer.dtype) for a in present}
        assert len(present) == len(asked) and len(kinds) == 1, f"ranks ask for different collectives: {asked}"
        sent_bytes += present[0].allreduce_bytes(len(exchanges))
        results = _carry_out(present, absent)


def _resume(exchange: Exchange, result: Any) -> Collective | None:
    try:
        return exchange.send(result)
    except StopIteration:
        return None


def _carry_out(asked: list[Collective], absent: bool) -> list[np.ndarray]:
    buffers = [a.buffer for a in asked]
    if isinstance(asked[0], Max | Sum):
        assert len({b.shape for b in buffers}) == 1, [b.shape for b in buffers]
        reduced = _reduce(type(asked[0]), buffers, absent)
        for buffer in buffers:
            buffer[...] = reduced
        return buffers
    assert not absent, f"{type(asked[0]).__name__} after a rank has joined"
    if isinstance(asked[0], AllGather):
        return [np.concatenate(buffers) for _ in asked]
    parcels = [_parcels(a, len(asked)) for a in asked if isinstance(a, AllToAll)]
    return [np.concatenate([sent[rank] for sent in parcels]) for rank in range(len(asked))]


def _parcels(asked: AllToAll, size: int) -> list[np.ndarray]:
    assert len(asked.splits) == size and sum(asked.splits) == asked.buffer.size, (asked.splits, asked.buffer.size)
    return [asked.buffer[start:end] for start, end in pairwise(accumulate(asked.splits, initial=0))]


def _reduce(kind: type[Collective], buffers: list[np.ndarray], absent: bool) -> np.ndarray:
    if kind is Sum:
        return np.add.reduce(buffers, axis=0, dtype=buffers[0].dtype)
    highest = np.maximum.reduce(buffers, axis=0)
    return np.maximum(highest, 0) if absent else highest
