"""How tensors are cut into buckets: the same on every rank, in every front end and in the cost model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Gradient bytes after which a bucket is closed, and the most that it takes of one tensor. Measured between two hosts,
#: 25 M parameters: half, twice and four times as much took longer at 1 Gbit/s, at 10, or both (DESIGN.md, section 7).
BUCKET_BYTES = 8 << 20


class Piece(NamedTuple):
    """Elements [start, start + numel) of the tensor with number ``tensor``."""

    tensor: int
    start: int
    numel: int


def label_of(name: str, start: int) -> str:
    """What the piece of tensor ``name`` that begins at element ``start`` is called: its part of the dither's key."""
    return f"{name}[{start}:]" if start else name


def cut(tensors: Iterable[tuple[int, int]], block_size: int, whole: bool = False) -> list[list[Piece]]:
    """Buckets of about BUCKET_BYTES each, from (numel, bytes per element) of each tensor in the agreed order.

    Tensors larger than a bucket are cut into equal pieces, unless they are to stay ``whole``; blocks are never cut.

    >>> [[piece.numel for piece in bucket] for bucket in cut([(1 << 20, 4), (1, 4), (3 << 20, 4)], 256)]
    [[1048576, 1, 1572864], [1572864]]
    """
    buckets: list[list[Piece]] = []
    size_bytes = BUCKET_BYTES
    for tensor, (numel, itemsize) in enumerate(tensors):
        count = 1 if whole else -(-numel * itemsize // BUCKET_BYTES)
        most = -(-numel // (count * block_size)) * block_size
        for start in range(0, numel, most):
            if size_bytes >= BUCKET_BYTES:
                buckets.append([])
                size_bytes = 0
            piece = Piece(tensor, start, min(most, numel - start))
            buckets[-1].append(piece)
            size_bytes += piece.numel * itemsize
    return buckets
