"""The general global norm of a block (arXiv 2305.18627; papers.md 1.1):

    ||x||_{q,p} = (sum_i ||x_i||_q^p)^(1/p)        x_i the block on rank i; inf stands for max

q = p = inf is M, the largest magnitude on any rank, and what schemes take unless told otherwise. Any other norm is M
times a factor of 1 or more, on which the ranks agree here: one more Sum, or a Max where p = inf. Uniform levels grow
with the norm and so do their errors; of exponential ones the largest are left unused.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels.layout import NORMS_HEADER
from hvd_gqsgd.maths import floats, quantize
from hvd_gqsgd.schemes.base import Bucket, Exchange, Kind, Max, Sum

#: (2^24)^32, of a block of 2^24 equal elements, is far below float64's end; beyond, norms are hardly others than inf's.
LARGEST_ORDER = 32


class Order(float):
    """q or p, with a repr that evaluates back where it is infinite."""

    def __repr__(self) -> str:
        return "float('inf')" if math.isinf(self) else super().__repr__()


LARGEST = (Order(math.inf), Order(math.inf))


def as_orders(scheme: str, given: Any) -> tuple[Order, Order]:
    """(q, p) from what a user wrote; SettingsError for what is none.

    >>> as_orders("GlobalQSGD", (2, math.inf))
    (2.0, float('inf'))
    """
    numbers = (int, float)
    pair = tuple(given) if isinstance(given, (tuple, list)) else ()
    if len(pair) != 2 or not all(
        isinstance(o, numbers) and not isinstance(o, bool) and (1 <= o <= LARGEST_ORDER or o == math.inf) for o in pair
    ):
        raise SettingsError(
            f"{scheme}(norm={given!r}): expected (q, p), each from 1 to {LARGEST_ORDER} or math.inf, got {given!r}; "
            "write for instance norm=(math.inf, math.inf) or norm=(2, 2)"
        )
    return Order(pair[0]), Order(pair[1])


def stages(norm: tuple[float, float]) -> list[list[Kind]]:
    """What ``widen`` asks for."""
    return [] if norm == LARGEST else [[(Max if math.isinf(norm[1]) else Sum, "float64")]]


def widen(bucket: Bucket, norm: tuple[float, float]) -> Exchange:
    """From M in ``bucket.norms``, as all ranks have it, to ||x||_{q,p}, rounded up: NumPy arrays, blocks not rotated.

    Blocks with M = 0 or M = inf keep theirs, and no norm leaves float32: the largest number bounds all finite ones.
    """
    q, p = norm
    norms = bucket.norms[NORMS_HEADER:]
    usable = (norms > 0) & (norms < np.inf)
    largest = np.where(usable, norms, np.float32(1)).astype(np.float64)
    share = np.where(usable, _own_norms(bucket, largest, q), 0.0)
    if math.isinf(p):
        yield Max(share)
        factor = share
    else:
        share **= p
        yield Sum(share)
        factor = share ** (1 / p)
    # A rounding error must not take a norm below what it bounds.
    exact = largest * np.maximum(factor, 1.0)
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
        above = np.where(single < exact, np.nextafter(single, np.float32(np.inf)), single)
    norms[usable] = np.minimum(above, np.finfo(np.float32).max)[usable]


def _own_norms(bucket: Bucket, largest: np.ndarray, q: float) -> np.ndarray:
    """||x_i||_q / M of this rank's blocks, float64 (blocks,), what was left over of the last step included."""
    layout = bucket.layout
    norms = np.empty(largest.size)
    for index, tensor in enumerate(bucket.tensors):
        residual = bucket.residuals[index] if bucket.residuals else None
        x = quantize.with_residual(floats.to_float32(tensor), residual)
        place = layout.norms_of(index)
        first = place.start - NORMS_HEADER
        for part in quantize.rows_of(x.size, layout.block_size, layout.members[index].bits):
            blocks = slice(first + part.first_block, first + part.first_block + part.blocks)
            rows = np.abs(x[part.elements].reshape(part.blocks, part.numel)) / largest[blocks, None]
            with np.errstate(over="ignore", invalid="ignore"):
                norms[blocks] = rows.max(axis=1) if math.isinf(q) else np.sum(rows**q, axis=1) ** (1 / q)
    return norms
