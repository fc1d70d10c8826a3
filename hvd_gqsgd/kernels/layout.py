"""Where each tensor of a bucket finds its norms and its words.

A bucket is a list of tensors that travel together. Its two buffers are

    norms  float32 [ check, 2^24 - check, step | norms of tensor 0 | norms of tensor 1 | ... ]     reduced with Max
    words  int32   [ 1 | words of tensor 0 | words of tensor 1 | ... ]                       reduced with Sum

so a sum of words begins with the number of ranks that contributed, and ``check`` shows whether all ranks meant the
same exchange (schemes.base explains both). Every tensor starts a new block, every block a new word.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np

from hvd_gqsgd.maths import floats, quantize

NORMS_HEADER = 3
WORDS_HEADER = 1

#: One row per tensor as the compiled kernels read it.
SEGMENT = np.dtype(
    [
        ("numel", np.int64),
        ("norms_offset", np.int64),
        ("words_offset", np.int64),
        ("tensor_id", np.uint64),
        ("dtype", np.int64),
        ("bits", np.int64),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One tensor of a bucket: identity (64 bits, the same on every rank), length, dtype name and width of a lane."""

    tensor_id: int
    numel: int
    dtype: str
    bits: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a bucket's members are written, and the offsets of each.

    rotated: whether blocks are rotated. dither: one of maths.dither.KINDS. levels: one of maths.quantize.LEVELS.
    """

    members: tuple[Member, ...]
    block_size: int
    rotated: bool
    dither: str
    levels: str = "uniform"
    norms_offsets: tuple[int, ...] = field(init=False)
    words_offsets: tuple[int, ...] = field(init=False)
    norms_numel: int = field(init=False)
    words_numel: int = field(init=False)

    def __post_init__(self) -> None:
        blocks = [quantize.count_blocks(m.numel, self.block_size) for m in self.members]
        words = [quantize.count_words(m.numel, self.block_size, m.bits) for m in self.members]
        *norms_offsets, norms_numel = accumulate(blocks, initial=NORMS_HEADER)
        *words_offsets, words_numel = accumulate(words, initial=WORDS_HEADER)
        object.__setattr__(self, "norms_offsets", tuple(norms_offsets))
        object.__setattr__(self, "words_offsets", tuple(words_offsets))
        object.__setattr__(self, "norms_numel", norms_numel)
        object.__setattr__(self, "words_numel", words_numel)

    def norms_of(self, index: int) -> slice:
        """Where member ``index`` has its norms."""
        start = self.norms_offsets[index]
        return slice(start, start + quantize.count_blocks(self.members[index].numel, self.block_size))

    def words_of(self, index: int) -> slice:
        """Where member ``index`` has its words."""
        start, member = self.words_offsets[index], self.members[index]
        return slice(start, start + quantize.count_words(member.numel, self.block_size, member.bits))

    @cached_property
    def segments(self) -> np.ndarray:
        """The members as a table of ``SEGMENT`` rows; read only, because several threads may share a layout."""
        table = np.zeros(len(self.members), dtype=SEGMENT)
        table["numel"] = [m.numel for m in self.members]
        table["norms_offset"] = self.norms_offsets
        table["words_offset"] = self.words_offsets
        table["tensor_id"] = np.array([m.tensor_id for m in self.members], dtype=np.uint64)
        table["dtype"] = [floats.DTYPES.index(m.dtype) for m in self.members]
        table["bits"] = [m.bits for m in self.members]
        table.flags.writeable = False
        return table

    @cached_property
    def segments_address(self) -> int:
        """Address of ``segments``; kept, because asking NumPy for it costs more than a small tensor."""
        return self.segments.ctypes.data
