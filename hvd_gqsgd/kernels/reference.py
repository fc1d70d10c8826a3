"""The specification as kernels: NumPy, one tensor after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths import dither, quantize


def _as_is(buffer: Any) -> np.ndarray:
    return buffer


class ReferenceKernels(Kernels):
    """``as_array`` turns the caller's buffers into NumPy views (bfloat16 as uint16); the default takes arrays."""

    name = "reference"

    def __init__(self, as_array: Callable[[Any], np.ndarray] = _as_is) -> None:
        self._as_array = as_array

    def block_norms(self, layout: Layout, tensors: Sequence[Buffer], norms: Buffer) -> None:
        view = self._as_array(norms)
        for index, tensor in enumerate(tensors):
            view[layout.norms_of(index)] = quantize.block_norms(self._as_array(tensor), layout.block_size)

    def encode(
        self,
        layout: Layout,
        tensors: Sequence[Buffer],
        norms: Buffer,
        words: Buffer,
        *,
        levels: int,
        seed: int,
        step: int,
        rank: int,
    ) -> None:
        norms, words = self._as_array(norms), self._as_array(words)
        for index, tensor in enumerate(tensors):
            words[layout.words_of(index)] = quantize.encode(
                self._as_array(tensor),
                norms[layout.norms_of(index)],
                block_size=layout.block_size,
                bits=layout.bits,
                levels=levels,
                key=dither.tensor_key(seed, step, layout.members[index].tensor_id, rank),
            )

    def decode(
        self, layout: Layout, tensors: Sequence[Buffer], words: Buffer, norms: Buffer, *, levels: int, factor: float
    ) -> None:
        words, norms = self._as_array(words), self._as_array(norms)
        for index, (member, tensor) in enumerate(zip(layout.members, tensors, strict=True)):
            self._as_array(tensor)[...] = quantize.decode(
                words[layout.words_of(index)],
                norms[layout.norms_of(index)],
                numel=member.numel,
                block_size=layout.block_size,
                bits=layout.bits,
                levels=levels,
                factor=factor,
                dtype=member.dtype,
            )
