"""n virtual ranks in one process, in lockstep, on NumPy buffers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hvd_gqsgd.schemes.base import Exchange, Max, Sum


def run(exchanges: Sequence[Exchange | None]) -> None:
    """Drive one generator per rank to its end; each collective is applied in place to every rank's buffer.

    exchanges: one per rank of the world; None for a rank that has joined and contributes zeros. Integer sums wrap as
    an allreduce's do. Raises AssertionError where ranks ask for different collectives.
    """
    running = [e for e in exchanges if e is not None]
    absent = len(running) < len(exchanges)
    while True:
        asked = [next(e, None) for e in running]
        if all(a is None for a in asked):
            return
        kinds = {(type(a), a.buffer.shape, a.buffer.dtype) for a in asked if a is not None}
        assert None not in asked and len(kinds) == 1, f"ranks ask for different collectives: {kinds}"
        buffers = [a.buffer for a in asked if a is not None]
        reduced = _reduce(type(asked[0]), buffers, absent)
        for buffer in buffers:
            buffer[...] = reduced


def _reduce(kind: type[Max | Sum | None], buffers: list[np.ndarray], absent: bool) -> np.ndarray:
    if kind is Sum:
        return np.add.reduce(buffers, axis=0, dtype=buffers[0].dtype)
    highest = np.maximum.reduce(buffers, axis=0)
    return np.maximum(highest, 0) if absent else highest
