"""Buffers, kernels and bucket of a scheme whose every step becomes an operator of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths.dither import KINDS, Turn
from hvd_gqsgd.schemes.base import CHECK_RANGE, Bucket
from hvd_gqsgd.tensorflow.library import operators

#: Gradients that can be compressed, with their names in the kernels' interface.
DTYPE_NAMES = {tf.float32: "float32", tf.float16: "float16", tf.bfloat16: "bfloat16", tf.float64: "float64"}


@dataclass
class Buffer:
    """A buffer whose contents are a tensor of the graph: who writes to it puts another tensor here."""

    tensor: Any = None


@dataclass
class PartBuffer(Buffer):
    """Elements [start, start + numel) of a tensor; the layout knows numel."""

    start: int = 0


class GraphKernels(Kernels):
    """The compiled kernels as operators: norms, words and tensors are ``Buffer``, step, rank and size are tensors."""

    name = "graph"

    def __init__(self, check: int) -> None:
        #: A tensor that block norms wait for. Not a control dependency: Grappler runs what has constant inputs, as
        #: gradients may be, ahead of time and once for all, with the collectives behind it.
        self.gate: Any = None
        self._header = (check, CHECK_RANGE - check)
        self._threads = tf.config.threading.get_intra_op_parallelism_threads()

    def block_norms(
        self,
        layout: Layout,
        tensors: Sequence[PartBuffer],
        norms: Buffer,
        turn: Turn,
        residuals: Sequence[Buffer] = (),
    ) -> None:
        norms.tensor = operators.hvd_gqsgd_block_norms(
            tensors=[part.tensor for part in tensors],
            residuals=[residual.tensor for residual in residuals],
            gate=self.gate,
            step=turn.step,
            header0=self._header[0],
            header1=self._header[1],
            norms_numel=layout.norms_numel,
            **self._parts(layout, tensors, turn),
        )
        norms.tensor.set_shape([layout.norms_numel])

    def encode(
        self,
        layout: Layout,
        tensors: Sequence[PartBuffer],
        norms: Buffer,
        words: Buffer,
        turn: Turn,
        residuals: Sequence[Buffer] = (),
    ) -> None:
        """As in ``Kernels``, with the step from the header of ``norms``, where all ranks have the same."""
        words.tensor, rests = operators.hvd_gqsgd_encode(
            tensors=[part.tensor for part in tensors],
            residuals=[residual.tensor for residual in residuals],
            norms=norms.tensor,
            rank=turn.rank,
            size=turn.size,
            norms_numel=layout.norms_numel,
            words_numel=layout.words_numel,
            **self._parts(layout, tensors, turn),
        )
        words.tensor.set_shape([layout.words_numel])
        for residual, rest, member in zip(residuals, rests, layout.members, strict=False):
            residual.tensor = tf.ensure_shape(rest, [member.numel])

    def decode(
        self,
        layout: Layout,
        tensors: Sequence[PartBuffer | None],
        words: Buffer,
        norms: Buffer,
        turn: Turn,
        *,
        factor: Any,
    ) -> None:
        """As in ``Kernels``; None for a tensor that is not asked for, ``factor`` not yet divided by contributors."""
        for index, part in enumerate(tensors):
            if part is not None:
                part.tensor = operators.hvd_gqsgd_decode(
                    like=part.tensor,
                    words=words.tensor,
                    norms=norms.tensor,
                    size=turn.size,
                    scale=factor,
                    norms_numel=layout.norms_numel,
                    words_numel=layout.words_numel,
                    first=int(part.start == 0),
                    **self._parts(layout, tensors, turn, index, index + 1),
                )

    def _parts(
        self,
        layout: Layout,
        parts: Sequence[PartBuffer | None],
        turn: Turn,
        begin: int = 0,
        end: int | None = None,
    ) -> dict[str, Any]:
        return {
            "segments": layout.segments[begin:end].view("int64").tolist(),
            "starts": [part.start for part in parts[begin:end] if part is not None],
            "block_size": layout.block_size,
            "rotated": int(layout.rotated),
            "dither": KINDS.index(layout.dither),
            # Attributes are signed; the kernels take all 64 bits.
            "seed": turn.seed - (1 << 64) if turn.seed >> 63 else turn.seed,
            "threads": self._threads,
        }


class GraphBucket(Bucket):
    """A bucket of ``Buffer``: its headers are written and read by the operators themselves."""

    def write_header(self, valid: bool) -> None:
        """The operator for block norms writes it. What is not valid never gets this far (agreement.py)."""
        assert valid

    def count_this_rank(self) -> None:
        """The operator for encoding does."""

    def per_contributor(self, scale: Any) -> Any:
        """``scale`` as it is: the operator for decoding divides."""
        return scale

    def read_header(self) -> Any:
        """The operator for encoding reads the step.

        Raises tf.errors.InvalidArgumentError when the graph runs, on every rank alike, where the checks differ.
        """
        self.norms.tensor = operators.hvd_gqsgd_verify(
            norms=self.norms.tensor, range=CHECK_RANGE, message=self.disagreement
        )
        return self.step


def after(value: Any, gate: Any, *, place: int = 0, sent_bytes: int = 0, dense_bytes: int = 0) -> Any:
    """``value`` once ``gate`` (float32) is there, and count what is about to be sent.

    place: another one for each of several with equal values, or Grappler makes one of them all.
    """
    return operators.hvd_gqsgd_after(
        value=value, gate=gate, place=place, sent_bytes=sent_bytes, dense_bytes=dense_bytes
    )


@tf.RegisterGradient("HvdGqsgdDecode")
def _no_second_derivative(operator: Any, gradient: Any) -> Any:
    raise UnsupportedError(
        f"{operator.name}: expected gradients to be reduced once, got a derivative of reduced gradients; write "
        "compression=hvd.Compression.none for this tape, or take the derivative before the gradients are reduced"
    )
