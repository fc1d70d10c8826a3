"""What a set of kernels does: three verbs over the tensors of one bucket.

Kernels are dumb: buffers and scalars in, codes out. Who calls them has validated everything. What a "buffer" is depends
on who made the kernels: NumPy arrays for the specification, anything with an address for the compiled ones, tensors
for the PyTorch ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths.dither import Turn

Buffer = Any


class Kernels(ABC):
    """Block norms, encode and decode; every implementation gives the same bits as ``kernels.reference``.

    turn: whose codes these are, and in which step. Norms need its seed, and decode its seed and size; both for rotated
    blocks, which is why they are the same in every step and on every rank.
    """

    #: What ``describe()`` and the environment variable call this implementation.
    name: str

    @abstractmethod
    def block_norms(
        self, layout: Layout, tensors: Sequence[Buffer], norms: Buffer, turn: Turn, residuals: Sequence[Buffer] = ()
    ) -> None:
        """Write max |x| of every block of every member into ``norms`` (+inf for a block with NaN or Inf).

        tensors: one flat, contiguous buffer per member, of the member's dtype and numel; read only.
        norms: float32 (layout.norms_numel,); the header is left alone.
        residuals: none, or a float32 buffer for each member, which is added to it; read only.
        """

    @abstractmethod
    def encode(
        self,
        layout: Layout,
        tensors: Sequence[Buffer],
        norms: Buffer,
        words: Buffer,
        turn: Turn,
        residuals: Sequence[Buffer] = (),
    ) -> None:
        """Write every member's codes into ``words`` (int32 (layout.words_numel,)); the header is left alone.

        norms: as agreed by every rank. residuals: as in ``block_norms``; replaced by what was not sent.
        """

    @abstractmethod
    def decode(
        self, layout: Layout, tensors: Sequence[Buffer], words: Buffer, norms: Buffer, turn: Turn, *, factor: float
    ) -> None:
        """Write every member of the summed ``words`` into its own of ``tensors``: sums * (norm * (factor / levels)).

        tensors: as in ``block_norms``; may be the very buffers that were encoded.
        """
