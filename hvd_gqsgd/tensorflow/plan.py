"""Which tensors of one operation travel together: worked out when a graph is made, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.schemes import agreement, cutting
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.tensorflow.calls import Call
from hvd_gqsgd.tensorflow.graph import DTYPE_NAMES


@dataclass(frozen=True)
class Spec:
    """What all ranks have to have in common about a tensor.

    index: its place in the operation. Horovod's names in a graph depend on it, so ranks in another order would wait for
    each other for ever, with compression or without.
    """

    index: int
    label: str
    shape: tuple[int, ...]
    dtype: tf.DType

    @property
    def numel(self) -> int:
        return tf.TensorShape(self.shape).num_elements()

    def __str__(self) -> str:
        return f"#{self.index} {self.label} {list(self.shape)} {self.dtype.name}"


@dataclass(frozen=True)
class Part:
    """Elements [start, start + numel) of a tensor, with a label of their own."""

    spec: Spec
    start: int
    numel: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Its tensor's, if it is all of it."""
        return self.spec.shape if self.numel == self.spec.numel else (self.numel,)

    @property
    def label(self) -> str:
        return cutting.label_of(self.spec.label, self.start)


@dataclass(frozen=True)
class Load:
    """A bucket's parts and where they lie in it."""

    parts: tuple[Part, ...]
    layout: Layout

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.spec.label for part in self.parts))


@dataclass(frozen=True)
class Plan:
    """loads: what is compressed, in buckets. specs: all tensors of a dtype that can be compressed."""

    loads: list[Load]
    specs: list[Spec]

    @classmethod
    def of(cls, scheme: Scheme, call: Call) -> Plan:
        """Raises UnsupportedError for a tensor without a static shape."""
        specs = _specs(call)
        settings = scheme.layout_settings()
        large = [spec for spec in specs if scheme.bits_of(spec.label, spec.shape) is not None]
        buckets = cutting.cut(
            [(spec.numel, spec.dtype.size) for spec in large], settings["block_size"], whole=not scheme.cuts_tensors
        )
        loads = []
        for bucket in buckets:
            parts = tuple(Part(large[piece.tensor], piece.start, piece.numel) for piece in bucket)
            members = tuple(
                Member(
                    tensor_id=agreement.tensor_id(part.label),
                    numel=part.numel,
                    dtype=DTYPE_NAMES[part.spec.dtype],
                    bits=scheme.bits_of(part.spec.label, part.spec.shape) or 0,
                )
                for part in parts
            )
            loads.append(Load(parts, Layout(members=members, **settings)))
        return cls(loads, specs)

    def check_value(self, scheme: Scheme) -> int:
        """A number that differs, but for one case in 16 million, where ``scheme`` or a tensor does."""
        return agreement.check_value(repr(scheme), *map(str, self.specs))

    @cached_property
    def places(self) -> dict[int, list[tuple[int, int]]]:
        """(load, member) for each part of each tensor that is compressed, by the tensor's number."""
        found: dict[int, list[tuple[int, int]]] = {}
        for number, load in enumerate(self.loads):
            for member, part in enumerate(load.parts):
                found.setdefault(part.spec.index, []).append((number, member))
        return found


def _specs(call: Call) -> list[Spec]:
    """Of the tensors that are ours, last ones first: that is the order in which a backward pass makes gradients."""
    return [
        Spec(index, call.labels[index], _static_shape(call, index), call.tensors[index].dtype)
        for index in reversed(range(len(call.tensors)))
        if is_ours(call.tensors[index])
    ]


def is_ours(tensor: Any) -> bool:
    """Whether it is reduced by us: not None, not sparse, of a dtype that can be compressed."""
    return tf.is_tensor(tensor) and not isinstance(tensor, tf.IndexedSlices) and tensor.dtype in DTYPE_NAMES


def _static_shape(call: Call, index: int) -> tuple[int, ...]:
    shape = call.tensors[index].shape
    if not shape.is_fully_defined() and call.shapes[index] is not None:
        # A dense gradient made of sparse ones, for instance; that it has this shape is checked when the graph runs.
        shape = tf.TensorShape(call.shapes[index])
    if not shape.is_fully_defined():
        raise UnsupportedError(
            f"{call.operation}, tensor {call.labels[index]!r}: expected a static shape, got {shape}; write "
            "tf.ensure_shape(tensor, [...]) around it, or compression=hvd.Compression.none"
        )
    return tuple(shape.as_list())
