"""GlobalQSGD as one of the contenders: n ranks on a loopback world, with the compiled kernels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate
from benchmarks.accuracy.gradients import Gradients
from hvd_gqsgd.kernels import select
from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.maths.levels import max_lane_sum
from hvd_gqsgd.schemes import Bucket, GlobalQSGD, World
from hvd_gqsgd.worlds import loopback


def fits(bits: int, n: int) -> bool:
    """Whether lanes of ``bits`` bits have a level for n workers."""
    return max_lane_sum(bits) >= n


def ours(gradients: Gradients, rng: np.random.Generator, *, scheme: GlobalQSGD) -> Estimate:
    """What rank 0 decodes. Bits: all words and norms with their headers, and 32 for elements of tensors too small."""
    return Reduction(scheme, gradients).estimate(int(rng.integers(1 << 20)))


@dataclass(frozen=True)
class Reduction:
    """The mean of these gradients by this scheme, as often as one likes: steps differ in their dither."""

    scheme: GlobalQSGD
    gradients: Gradients

    def estimate(self, step: int) -> Estimate:
        scheme, gradients, n = self.scheme, self.gradients, self.gradients.n
        chosen = [scheme.bits_of(t.name, t.shape) for t in gradients.tensors]
        members = tuple(
            Member(tensor_id=zlib.crc32(t.name.encode()), numel=t.numel, dtype="float32", bits=bits)
            for t, bits in zip(gradients.tensors, chosen, strict=True)
            if bits is not None
        )
        layout = Layout(members=members, **scheme.layout_settings())
        buckets = [
            Bucket.of_arrays(
                layout,
                1,
                [t.name for t, bits in zip(gradients.tensors, chosen, strict=True) if bits is not None],
                tensors=[part for part, bits in zip(gradients.cut(row), chosen, strict=True) if bits is not None],
                step=step,
            )
            for row in gradients.workers
        ]
        loopback.run([scheme.collectives(bucket, _kernels(), World(n, rank)) for rank, bucket in enumerate(buckets)])
        # What Horovod sends itself arrives exactly.
        mean = gradients.mean.astype(np.float32)
        out = [part for part, bits in zip(gradients.cut(mean), chosen, strict=True) if bits is not None]
        scheme.decode(buckets[0], _kernels(), World(n, 0), out, scale=1.0)
        plain = gradients.d - sum(m.numel for m in members)
        return Estimate(mean, 32 * (layout.words_numel + layout.norms_numel + plain) / gradients.d)


@cache
def _kernels() -> Kernels:
    return select()
