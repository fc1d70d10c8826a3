"""Which tensors travel together: buckets with their persistent buffers, planned once and used every step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.schemes import agreement, cutting
from hvd_gqsgd.schemes.base import Bucket, Scheme
from hvd_gqsgd.torch.buffers import DTYPE_NAMES

#: Sets of members that arrived without the others, for which a bucket remembers where everything lies.
MOST_PARTIAL = 8


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

    def describes(self, tensor: torch.Tensor) -> bool:
        """Whether ``Spec.of`` would give the same for a tensor of this name; faster than to ask that."""
        return tensor.shape == self.shape and tensor.dtype == self.dtype and tensor.device == self.device

    @cached_property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    def __str__(self) -> str:
        return f"{self.name} {list(self.shape)} {str(self.dtype).removeprefix('torch.')} {self.device.type}"


@dataclass(frozen=True)
class Part:
    """Elements [start, start + numel) of a tensor: all of them, but for tensors larger than a bucket."""

    spec: Spec
    start: int
    numel: int

    @property
    def label(self) -> str:
        """Tells it from every other part of every tensor of its optimizer."""
        return cutting.label_of(self.spec.name, self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its tensor's, if it is all of it."""
        return self.spec.shape if self.numel == self.spec.numel else (self.numel,)

    @property
    def nbytes(self) -> int:
        return self.numel * self.spec.dtype.itemsize

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """This part of the tensor's elements ``flat``."""
        return flat if self.numel == self.spec.numel else flat[self.start : self.start + self.numel]


@dataclass(frozen=True, eq=False)
class Load:
    """A bucket and what is in it. label: the same on every rank, and of no other load of its optimizer."""

    bucket: Bucket
    parts: tuple[Part, ...]
    label: str
    dense_bytes: int


class Group:
    """Parts that travel together, all on one device, and the buffers that they travel in.

    index: its place in the order on which all ranks agree.
    """

    def __init__(self, scheme: Scheme, parts: Sequence[Part], index: int) -> None:
        self.index = index
        self.names = tuple(dict.fromkeys(part.spec.name for part in parts))
        self._scheme = scheme
        self._parts = tuple(parts)
        self._whole: Load | None = None
        self._partial: dict[tuple[str, ...], Load] = {}

    def load(self) -> Load:
        """All of it."""
        if self._whole is None:
            layout = self._layout(self._parts)
            self._whole = self._load(self._parts, layout, *self._buffers(layout))
        return self._whole

    def partial_load(self, names: tuple[str, ...]) -> Load:
        """Only the tensors ``names``, in the same buffers."""
        if names not in self._partial:
            if len(self._partial) >= MOST_PARTIAL:
                self._partial.clear()
            parts = tuple(part for part in self._parts if part.spec.name in names)
            layout, whole = self._layout(parts), self.load().bucket
            norms, words = whole.norms[: layout.norms_numel], whole.words[: layout.words_numel]
            self._partial[names] = self._load(parts, layout, norms, words)
        return self._partial[names]

    def drop_buffers(self) -> None:
        """Forget the buffers, which a collective that nobody waits for may still be writing to."""
        self._whole = None
        self._partial.clear()

    def _buffers(self, layout: Layout) -> tuple[Any, Any]:
        """Norms and words."""
        if self._scheme.on_host:
            return np.zeros(layout.norms_numel, np.float32), np.zeros(layout.words_numel, np.int32)
        device = self._parts[0].spec.device
        norms = torch.zeros(layout.norms_numel, dtype=torch.float32, device=device)
        return norms, torch.zeros(layout.words_numel, dtype=torch.int32, device=device)

    def _layout(self, parts: tuple[Part, ...]) -> Layout:
        members = tuple(
            Member(
                tensor_id=agreement.tensor_id(p.label),
                numel=p.numel,
                dtype=DTYPE_NAMES[p.spec.dtype],
                bits=self._scheme.bits_of(p.spec.name, p.spec.shape) or 0,
            )
            for p in parts
        )
        return Layout(members=members, **self._scheme.layout_settings())

    def _load(self, parts: tuple[Part, ...], layout: Layout, norms: Any, words: Any) -> Load:
        labels = [part.label for part in parts]
        bucket = Bucket(
            layout=layout,
            names=tuple(dict.fromkeys(part.spec.name for part in parts)),
            check=agreement.check_value(repr(self._scheme), *(f"{part.spec} {part.start}" for part in parts)),
            norms=norms,
            words=words,
            labels=tuple(labels),
            shapes=tuple(part.shape for part in parts),
        )
        label = f"{labels[0]}+{len(labels) - 1}.{agreement.digest(*labels)}"
        return Load(bucket, parts, label, sum(part.nbytes for part in parts))


class Plan:
    """The agreed buckets of one optimizer.

    specs: name -> Spec of every tensor that is compressed; groups: the buckets in their agreed order; groups_of:
    name -> those that have a part of it; small: names of the tensors that travel as Horovod would send them.
    """

    def __init__(self, scheme: Scheme) -> None:
        self.specs: dict[str, Spec] = {}
        self.groups: list[Group] = []
        self.groups_of: dict[str, list[Group]] = {}
        self.small: set[str] = set()
        self._scheme = scheme

    def extended(self, specs: Iterable[Spec]) -> Plan:
        """This plan and, cut into buckets of their own, ``specs`` in the agreed order. Its buckets are used on."""
        plan = Plan(self._scheme)
        plan.specs.update(self.specs)
        plan.groups.extend(self.groups)
        plan.groups_of.update(self.groups_of)
        plan.small.update(self.small)
        by_device: dict[torch.device, list[Spec]] = {}
        for spec in specs:
            if self._scheme.bits_of(spec.name, spec.shape) is not None:
                by_device.setdefault(spec.device, []).append(spec)
                plan.specs[spec.name] = spec
            else:
                plan.small.add(spec.name)
        for column in by_device.values():
            for group in groups_of(self._scheme, column, len(plan.groups)):
                plan.groups.append(group)
                for name in group.names:
                    plan.groups_of.setdefault(name, []).append(group)
        return plan

    def drop_buffers(self) -> None:
        """Forget all buffers, as Group.drop_buffers."""
        for group in self.groups:
            group.drop_buffers()


def groups_of(scheme: Scheme, specs: Sequence[Spec], first_index: int = 0) -> list[Group]:
    """The buckets of tensors on one device, numbered from ``first_index``."""
    tensors = [(spec.numel, spec.dtype.itemsize) for spec in specs]
    buckets = cutting.cut(tensors, scheme.layout_settings()["block_size"], whole=not scheme.cuts_tensors)
    parts = [[Part(specs[piece.tensor], piece.start, piece.numel) for piece in bucket] for bucket in buckets]
    return [Group(scheme, members, first_index + index) for index, members in enumerate(parts)]
