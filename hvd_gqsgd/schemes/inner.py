"""Buckets inside a bucket: what a scheme on the host hands to another scheme."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.schemes.base import Bucket, Collective, Scheme, Sum, World

#: An exchange that ends with the means over the ranks that took part, one float32 array for each of its parts.
Means = Generator[Collective, Any, list[np.ndarray]]


@dataclass(frozen=True)
class Part:
    """One array of an inner bucket: float32 (numel,), sent in lanes of ``bits``."""

    label: str
    tensor_id: int
    numel: int
    bits: int


def mean_by(
    scheme: Scheme,
    outer: Bucket,
    parts: Sequence[Part],
    arrays: Sequence[np.ndarray],
    kernels: Kernels,
    world: World,
    step: int,
) -> Means:
    """The means of ``arrays``, exchanged by ``scheme``; its bucket is kept in ``outer.scratch[scheme]``.

    step: as agreed by all ranks.
    """
    bucket = _bucket(scheme, outer, tuple(parts))
    bucket.tensors, bucket.step = arrays, step
    yield from scheme.collectives(bucket, kernels, world)
    means = [np.empty(part.numel, np.float32) for part in parts]
    scheme.decode(bucket, kernels, world, means, scale=1.0)
    bucket.tensors = ()
    return means


def mean_in_full(arrays: Sequence[np.ndarray]) -> Means:
    """The means of ``arrays`` in float32; a one in front of them counts the ranks."""
    buffer = np.concatenate([np.ones(1, np.float32), *(array.reshape(-1) for array in arrays)])
    yield Sum(buffer)
    ends = accumulate((array.size for array in arrays), initial=1)
    return [buffer[start:end] / buffer[0] for start, end in pairwise(ends)]


def inner_bucket(scheme: Scheme, outer: Bucket) -> Bucket:
    """The bucket of the last ``mean_by``, for ``Scheme.measure``."""
    return outer.scratch[scheme][1]


def _bucket(scheme: Scheme, outer: Bucket, parts: tuple[Part, ...]) -> Bucket:
    kept = outer.scratch.get(scheme)
    if kept is not None and kept[0] == parts:
        return kept[1]
    members = (Member(tensor_id=p.tensor_id, numel=p.numel, dtype="float32", bits=p.bits) for p in parts)
    layout = Layout(members=tuple(members), **scheme.layout_settings())
    shapes = tuple((part.numel,) for part in parts)
    bucket = Bucket.of_arrays(layout, outer.check, [part.label for part in parts], names=outer.names, shapes=shapes)
    outer.scratch[scheme] = parts, bucket
    return bucket
