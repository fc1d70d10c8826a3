"""Which tensors travel together: buckets with their persistent buffers, built once and used every step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.schemes import agreement
from hvd_gqsgd.schemes.base import Bucket, Scheme
from hvd_gqsgd.torch.buffers import DTYPE_NAMES

#: Gradient bytes after which a bucket is closed: large enough that a collective's latency (about 2 ms on loopback,
#: 7 ms between hosts) is small beside its transfer, small enough that the first leaves early in the backward pass.
BUCKET_BYTES = 8 << 20


@dataclass(frozen=True)
class Spec:
    """What has to stay the same about a tensor from step to step."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Spec:
        return cls(name, tuple(tensor.shape), tensor.dtype, tensor.device)

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def dense_bytes(self) -> int:
        return self.numel * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} {str(self.dtype).removeprefix('torch.')} {self.device.type}"


def new_bucket(scheme: Scheme, specs: Sequence[Spec]) -> Bucket:
    """A bucket for ``specs``, which are on one device, with fresh buffers there."""
    members = tuple(
        Member(tensor_id=agreement.tensor_id(s.name), numel=s.numel, dtype=DTYPE_NAMES[s.dtype]) for s in specs
    )
    layout = Layout(members=members, **scheme.layout_settings())
    device = specs[0].device
    return Bucket(
        layout=layout,
        names=tuple(s.name for s in specs),
        check=agreement.check_value(repr(scheme), *map(str, specs)),
        norms=torch.zeros(layout.norms_numel, dtype=torch.float32, device=device),
        words=torch.zeros(layout.words_numel, dtype=torch.int32, device=device),
    )


class Group:
    """Names of the tensors of one planned bucket. Compared by identity: it is looked up in every hook."""

    __slots__ = ("names",)

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names


class Plan:
    """The agreed buckets of one optimizer.

    specs: name -> Spec of every tensor that is compressed; group_of: name -> its bucket's names; groups: how many
    buckets; small: names of the tensors that travel as Horovod would send them.
    """

    def __init__(self, scheme: Scheme) -> None:
        self.specs: dict[str, Spec] = {}
        self.group_of: dict[str, Group] = {}
        self.groups = 0
        self.small: set[str] = set()
        self._scheme = scheme
        self._buckets: dict[tuple[Spec, ...], Bucket] = {}

    def extended(self, specs: Iterable[Spec]) -> Plan:
        """This plan and, cut into buckets of their own, ``specs`` in the agreed order. Its buffers are used on."""
        plan = Plan(self._scheme)
        plan.specs.update(self.specs)
        plan.group_of.update(self.group_of)
        plan.groups = self.groups
        plan.small.update(self.small)
        # A copy: a plan that is not kept must not leave its buffers here.
        plan._buckets = dict(self._buckets)
        by_device: dict[torch.device, list[Spec]] = {}
        for spec in specs:
            if self._scheme.compresses(spec.numel):
                by_device.setdefault(spec.device, []).append(spec)
                plan.specs[spec.name] = spec
            else:
                plan.small.add(spec.name)
        for column in by_device.values():
            for bucket in _cut(column):
                group = Group(tuple(spec.name for spec in bucket))
                plan.group_of.update((name, group) for name in group.names)
                plan.groups += 1
        return plan

    def bucket(self, names: tuple[str, ...]) -> Bucket:
        """The bucket of exactly ``names``: a planned one, or what arrived of one. Its buffers are kept."""
        specs = tuple(self.specs[name] for name in names)
        if specs not in self._buckets:
            self._buckets[specs] = new_bucket(self._scheme, specs)
        return self._buckets[specs]

    def drop_buffers(self) -> None:
        """Forget the buffers, which a collective that nobody waits for may still be writing to."""
        self._buckets.clear()


def _cut(specs: Sequence[Spec]) -> list[list[Spec]]:
    buckets: list[list[Spec]] = []
    size_bytes = 0
    for spec in specs:
        if not buckets or size_bytes + spec.dense_bytes > BUCKET_BYTES:
            buckets.append([])
            size_bytes = 0
        buckets[-1].append(spec)
        size_bytes += spec.dense_bytes
    return buckets
