"""What the tests of schemes share: buckets of a loopback world, and a whole allreduce in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.kernels.reference import ReferenceKernels
from hvd_gqsgd.schemes import Bucket, Scheme, World
from hvd_gqsgd.worlds import loopback

KERNELS = ReferenceKernels()

#: Inputs and outputs by rank: a list of float32 tensors, None for a rank that has joined.
Inputs = Sequence[list[np.ndarray] | None]


def buckets_for(scheme: Scheme, inputs: Inputs, step: int = 0, check: int = 7) -> list[Bucket]:
    """One bucket per rank."""
    numels = [t.size for t in next(i for i in inputs if i is not None)]
    members = tuple(
        Member(tensor_id=100 + i, numel=numel, dtype="float32", bits=scheme.bits_of(f"t{i}", (1 << 40,)))
        for i, numel in enumerate(numels)
    )
    layout = Layout(members=members, **scheme.layout_settings())
    return [
        Bucket(
            layout=layout,
            names=tuple(f"t{i}" for i in range(len(numels))),
            check=check,
            norms=np.full(layout.norms_numel, -1, dtype=np.float32),
            words=np.full(layout.words_numel, -1, dtype=np.int32),
            tensors=tensors,
            step=step,
            labels=tuple(f"t{i}" for i in range(len(numels))),
            shapes=tuple((numel,) for numel in numels),
            memory=[{} for _ in numels],
        )
        for tensors in inputs
    ]


def run(scheme: Scheme, buckets: Sequence[Bucket], inputs: Inputs, scale: float = 1.0, kernels: Kernels = KERNELS):
    """Decoded tensors per rank that is present; scale=1 is the mean over those."""
    n = len(inputs)
    present = [rank for rank in range(n) if inputs[rank] is not None]
    loopback.run([scheme.collectives(buckets[r], kernels, World(n, r)) if r in present else None for r in range(n)])
    results = []
    for rank in present:
        outs = [np.empty_like(t) for t in inputs[rank]]
        scheme.decode(buckets[rank], kernels, World(n, rank), outs, scale=scale)
        results.append(outs)
    return results


def allreduce(scheme: Scheme, inputs: Inputs, scale: float = 1.0, step: int = 0, kernels: Kernels = KERNELS):
    """``run`` on buckets of its own."""
    return run(scheme, buckets_for(scheme, inputs, step), inputs, scale, kernels)


def gaussian(n: int, numels: Sequence[int] = (1000, 7, 256), seed: int = 0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(m).astype(np.float32) for m in numels] for _ in range(n)]


def at(buckets: Sequence[Bucket], step: int) -> Sequence[Bucket]:
    """The buckets, in another step."""
    for bucket in buckets:
        bucket.step = step
    return buckets
