"""The specification as kernels: NumPy, one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths import dither, quantize, rotation
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.maths.levels import count_levels


def _as_is(buffer: Any) -> np.ndarray:
    return buffer


class ReferenceKernels(Kernels):
    """``as_array`` turns the caller's buffers into NumPy views (bfloat16 as uint16); the default takes arrays."""

    name = "reference"

    def __init__(self, as_array: Callable[[Any], np.ndarray] = _as_is) -> None:
        self._as_array = as_array

    def block_norms(
        self, layout: Layout, tensors: Sequence[Buffer], norms: Buffer, turn: Turn, residuals: Sequence[Buffer] = ()
    ) -> None:
        view = self._as_array(norms)
        for index, (tensor, residual) in enumerate(zip_longest(tensors, residuals)):
            view[layout.norms_of(index)] = quantize.block_norms(
                self._as_array(tensor),
                layout.block_size,
                rotation_key=_rotation_key(layout, index, turn),
                residual=None if residual is None else self._as_array(residual),
            )

    def encode(
        self,
        layout: Layout,
        tensors: Sequence[Buffer],
        norms: Buffer,
        words: Buffer,
        turn: Turn,
        residuals: Sequence[Buffer] = (),
    ) -> None:
        norms, words = self._as_array(norms), self._as_array(words)
        for index, (tensor, residual) in enumerate(zip_longest(tensors, residuals)):
            member = layout.members[index]
            words[layout.words_of(index)] = quantize.encode(
                self._as_array(tensor),
                norms[layout.norms_of(index)],
                block_size=layout.block_size,
                bits=member.bits,
                levels=count_levels(member.bits, turn.summed),
                dither=dither.dither_of(layout.dither, turn, member.tensor_id),
                spacing=layout.levels,
                rotation_key=_rotation_key(layout, index, turn),
                residual=None if residual is None else self._as_array(residual),
            )

    def decode(
        self, layout: Layout, tensors: Sequence[Buffer], words: Buffer, norms: Buffer, turn: Turn, *, factor: float
    ) -> None:
        words, norms = self._as_array(words), self._as_array(norms)
        for index, (member, tensor) in enumerate(zip(layout.members, tensors, strict=True)):
            self._as_array(tensor)[...] = quantize.decode(
                words[layout.words_of(index)],
                norms[layout.norms_of(index)],
                numel=member.numel,
                block_size=layout.block_size,
                bits=member.bits,
                levels=count_levels(member.bits, turn.summed),
                factor=factor,
                dtype=member.dtype,
                spacing=layout.levels,
                rotation_key=_rotation_key(layout, index, turn),
            )


def _rotation_key(layout: Layout, index: int, turn: Turn) -> int | None:
    if not layout.rotated:
        return None
    return rotation.rotation_key(turn.seed, layout.members[index].tensor_id)
