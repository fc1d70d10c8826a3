"""Block norms, encode and decode of one tensor: the arithmetic of Global-QSGD, step by step.

A tensor of ``numel`` elements is cut into blocks of ``block_size``; the last one may be shorter. All arithmetic is
IEEE without contraction, so that compiled code can be held to the same bits. Gradients are taken as float32 first:
a float64 beyond float32's range counts as infinite.

With a ``rotation_key``, blocks are rotated (rotation.py) before their norms are taken and before they are encoded, and
rotated back after they are decoded. With a ``residual``, error feedback, it is added to the gradient first.

Codes are multiples of a level, as below, or stand for powers of two (exponential.py): only what a code is and what it
stands for differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from hvd_gqsgd.maths import exponential, floats, lanes, rotation
from hvd_gqsgd.maths.dither import DITHER_BITS, ONE, Dither, dither_planes

# Rounds the scale up past its own rounding errors, so that |x| = M always meets the last level exactly.
ROUND_UP = np.float32(1 + 2**-22)
# Below this norm 65536 * L / M would overflow; such blocks are scaled by 2^64 first, which is exact.
TINY_NORM = np.float32(2.0**-90)
TINY_SCALE = np.float32(2.0**64)
# Units that decode rounds to float32: S * unit, |S| <= 2^15, is then a normal number or zero.
SMALLEST_UNIT = 2.0**-126
LARGEST_UNIT = 2.0**111

#: How a block's levels are spaced.
LEVELS = ("uniform", "exponential")


class Rows(NamedTuple):
    """``blocks`` blocks of ``numel`` elements each: number of the first one, its first word, where they lie."""

    first_block: int
    first_word: int
    elements: slice
    blocks: int
    numel: int


def count_blocks(numel: int, block_size: int) -> int:
    """Blocks, and so norms, of a tensor."""
    return -(-numel // block_size)


def count_words(numel: int, block_size: int, bits: int) -> int:
    """Words of a tensor: every block starts a new word."""
    full, rest = divmod(numel, block_size)
    return full * lanes.words_for(block_size, bits) + lanes.words_for(rest, bits)


def rows_of(numel: int, block_size: int, bits: int) -> Iterator[Rows]:
    """The whole blocks of a tensor, then the shorter one; neither where there is none."""
    full, rest = divmod(numel, block_size)
    if full:
        yield Rows(0, 0, slice(0, full * block_size), full, block_size)
    if rest:
        yield Rows(full, full * lanes.words_for(block_size, bits), slice(full * block_size, numel), 1, rest)


def block_norms(
    x: np.ndarray, block_size: int, *, rotation_key: int | None = None, residual: np.ndarray | None = None
) -> np.ndarray:
    """m[b] = max |x| over block b, rotated if there is a key; +inf where the block has a NaN or an Inf.

    x: (numel,) of float16, float32, float64, or bfloat16 as uint16. residual: float32 (numel,).
    Returns float32 (blocks,). NaN becomes +inf *before* the ranks' maxima are taken, because what MPI's maximum does
    with NaN is undefined.
    """
    x = with_residual(floats.to_float32(x), residual)
    norms = np.empty(count_blocks(x.size, block_size), dtype=np.float32)
    for part in rows_of(x.size, block_size, 16):
        rows = x[part.elements].reshape(part.blocks, part.numel)
        own = np.where(np.isfinite(rows), np.abs(rows), np.float32(np.inf)).max(axis=1)
        if rotation_key is not None:
            lift = _lift(own)
            finite = np.where(np.isinf(own)[:, None], np.float32(0), rows)
            rotated = rotation.rotate(finite * lift[:, None], part.first_block, block_size, rotation_key)
            own = np.where(np.isinf(own), own, _lowered(np.abs(rotated).max(axis=1), lift))
        norms[part.first_block : part.first_block + part.blocks] = own
    return norms


def encode(
    x: np.ndarray,
    norms: np.ndarray,
    *,
    block_size: int,
    bits: int,
    levels: int,
    dither: Dither,
    spacing: str = "uniform",
    rotation_key: int | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """Words whose codes are q = clamp(floor(x * L / M + u), -L, L), u from the dither: E[q] = x * L / M.

    With ``spacing`` "exponential" they are those of ``exponential.codes``, with as many ``levels``.

    x: (numel,) as in ``block_norms``; norms: float32 (blocks,), the *agreed* M; returns int32 (words,).
    The expectation holds to 2^-16 of a level, the grain of the dither. Blocks with M = 0 or M = inf send zeros.
    residual: replaced by what was to be sent and was not, x + residual - decoded; left alone where M = inf.
    """
    x = with_residual(floats.to_float32(x), residual)
    words = np.zeros(count_words(x.size, block_size, bits), dtype=np.int32)
    for part in rows_of(x.size, block_size, bits):
        rows = x[part.elements].reshape(part.blocks, part.numel)
        own = norms[part.first_block : part.first_block + part.blocks]
        usable, lift = (own > 0) & (own < np.inf), _lift(own)
        rows = np.where(usable[:, None], rows, np.float32(0)) * lift[:, None]
        if rotation_key is not None:
            rows = rotation.rotate(rows, part.first_block, block_size, rotation_key)
        lifted, noise = np.where(usable, own * lift, np.float32(1)), _noise(rows.shape, dither, part.first_word, bits)
        codes = (exponential.codes if spacing == "exponential" else _codes)(rows, lifted, levels, noise)
        packed = lanes.pack(np.where(usable[:, None], codes, 0), bits)
        words[part.first_word : part.first_word + packed.size] = packed.reshape(-1)
        if residual is not None:
            sent = _values(codes, own, 1.0, levels, spacing, True).astype(np.float32)
            rest = rows * (np.float32(1) / lift)[:, None] - sent
            if rotation_key is not None:
                rest = rotation.unrotate(rest, part.first_block, block_size, rotation_key)
            before = residual[part.elements].reshape(part.blocks, part.numel)
            rest = np.where((own == 0)[:, None], np.float32(0), rest)
            residual[part.elements] = np.where(np.isinf(own)[:, None], before, rest).reshape(-1)
    return words


def _codes(rows: np.ndarray, norms: np.ndarray, levels: int, noise: np.ndarray) -> np.ndarray:
    scale = (np.float32(ONE * levels) / norms) * ROUND_UP
    limit = np.float32(ONE * levels)
    with np.errstate(invalid="ignore", over="ignore"):
        fixed = np.clip(rows * scale[:, None], -limit, limit).astype(np.int32)
    return (fixed + noise) >> DITHER_BITS


def _noise(shape: tuple[int, ...], dither: Dither, first_word: int, bits: int) -> np.ndarray:
    """The dither of blocks (count, m) whose words begin with number ``first_word``."""
    count, numel = shape
    k, w = lanes.lanes_per_word(bits), lanes.words_for(numel, bits)
    index = np.arange(first_word, first_word + count * w, dtype=np.uint64).astype(np.uint32).reshape(count, w)
    return dither_planes(dither, index, k).reshape(count, k * w)[:, :numel]


def decode(
    words: np.ndarray,
    norms: np.ndarray,
    *,
    numel: int,
    block_size: int,
    bits: int,
    levels: int,
    factor: float,
    dtype: str,
    spacing: str = "uniform",
    rotation_key: int | None = None,
) -> np.ndarray:
    """x_hat = S * unit with unit = M * (factor / L), S the lane sums of ``words``; factor = 1/n gives the mean over n.

    With ``spacing`` "exponential", S = +-2^(m - s) and unit = M * factor.

    words: int32 (words,), already summed; norms: float32 (blocks,); returns (numel,) of ``dtype``, bfloat16 as uint16.
    M = inf gives NaN for the whole block, M = 0 gives zeros.

    The product is one in float32, and half precisions round it once more. Its unit was rounded to float32 before, so a
    float32 is within 2^-24 + 2^-24 of S * unit, the first of which is the unit's. Units that would make float32
    subnormal or infinite stay in float64, as all of them do for a float64 result: those values are rounded once.
    Blocks are rotated back in float32, whatever ``dtype`` is.
    """
    rotated = rotation_key is not None
    values = np.empty(numel, dtype=np.float64)
    for part in rows_of(numel, block_size, bits):
        packed = words[part.first_word : part.first_word + part.blocks * lanes.words_for(part.numel, bits)]
        sums = lanes.unpack(packed.reshape(part.blocks, -1), part.numel, bits)
        own = norms[part.first_block : part.first_block + part.blocks]
        rows = _values(sums, own, float(factor), levels, spacing, rotated or dtype != "float64")
        if rotation_key is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                single = np.where(np.isinf(own)[:, None], 0, rows).astype(np.float32)
                back = rotation.unrotate(single, part.first_block, block_size, rotation_key)
            rows = np.where(np.isinf(own)[:, None], np.nan, back)
        values[part.elements] = rows.reshape(-1)
    return floats.from_float64(values, dtype)


def _values(codes: np.ndarray, norms: np.ndarray, factor: float, levels: int, spacing: str, single: bool) -> np.ndarray:
    # A float64 holds 16 bits, or a power of two, times 24 bits exactly: what rounds it to float32 makes the product
    # that float32 would give.
    if spacing == "exponential":
        return exponential.powers(codes, levels) * _unit(norms, factor, single)[:, None]
    return codes.astype(np.float64) * _unit(norms, factor / float(levels), single)[:, None]


def _unit(norms: np.ndarray, factor: float, single: bool) -> np.ndarray:
    """M * factor for each block, rounded to float32 if ``single`` and where that spoils nothing; NaN for M = inf."""
    unit = norms.astype(np.float64) * factor
    unit[np.isinf(norms)] = np.nan
    if single:
        fits = (np.abs(unit) >= SMALLEST_UNIT) & (np.abs(unit) <= LARGEST_UNIT)
        unit[fits] = unit[fits].astype(np.float32)
    return unit


def with_residual(x: np.ndarray, residual: np.ndarray | None) -> np.ndarray:
    """float32 x with what was left over of it, if anything."""
    if residual is None:
        return x
    with np.errstate(over="ignore", invalid="ignore"):
        return x + residual


def _lift(norms: np.ndarray) -> np.ndarray:
    return np.where(norms < TINY_NORM, TINY_SCALE, np.float32(1))


def _lowered(norms: np.ndarray, lift: np.ndarray) -> np.ndarray:
    """Norms of blocks that were lifted, rounded up: a subnormal norm must not fall below what it bounds."""
    lowered = norms * (np.float32(1) / lift)
    above = np.nextafter(lowered, np.where(lift > 1, np.float32(1), lowered))
    return np.where(lowered * lift < norms, above, lowered)
