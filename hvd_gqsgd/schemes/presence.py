"""Who takes part: Horovod runs allreduces after a rank has joined, but not alltoall and allgather."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.schemes.base import Bucket, Collective, Max, World


def largest(arrays: Sequence[np.ndarray], world: World) -> Generator[Collective, Any, int]:
    """The maxima over all ranks of several float32 arrays, in place, in one Max; returns how many ranks are there."""
    present = np.zeros(world.size, np.float32)
    present[world.rank] = 1
    whole = np.concatenate([*(array.reshape(-1) for array in arrays), present])
    yield Max(whole)
    start = 0
    for array in arrays:
        array[...] = whole[start : start + array.size].reshape(array.shape)
        start += array.size
    return int(np.count_nonzero(whole[start:]))


def require_all(bucket: Bucket, world: World, present: int) -> None:
    """Raise UnsupportedError, on all ranks that are there, unless all are.

    Horovod has to be spared the attempt: where it remembers an alltoall from before, it brings the joined process down.
    """
    if present < world.size:
        raise UnsupportedError(
            f"allreduce of {bucket.listed} after hvd.join: expected all {world.size} ranks, got {present}; exchanges "
            "in two phases need every rank: write compression=GlobalQSGD(exchange='ring'), or give all ranks as many "
            "steps"
        )
