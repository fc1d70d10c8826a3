"""Block norms, encode and decode of one tensor: the arithmetic of Global-QSGD, step by step.

A tensor of ``numel`` elements is cut into blocks of ``block_size``; the last one may be shorter. All arithmetic is
IEEE without contraction, so that compiled code can be held to the same bits. Gradients are taken as float32 first:
a float64 beyond float32's range counts as infinite.
"""

from __future__ import annotations

import numpy as np

from hvd_gqsgd.maths import dither, floats, lanes

# A level in the fixed point of the dither.
ONE = 1 << dither.DITHER_BITS
# Rounds the scale up past its own rounding errors, so that |x| = M always meets the last level exactly.
ROUND_UP = np.float32(1 + 2**-22)
# Below this norm 65536 * L / M would overflow; such blocks are scaled by 2^64 first, which is exact.
TINY_NORM = np.float32(2.0**-90)
TINY_SCALE = np.float32(2.0**64)
# Units that decode rounds to float32: S * unit, |S| <= 2^15, is then a normal number or zero.
SMALLEST_UNIT = 2.0**-126
LARGEST_UNIT = 2.0**111


def count_blocks(numel: int, block_size: int) -> int:
    """Blocks, and so norms, of a tensor."""
    return -(-numel // block_size)


def count_words(numel: int, block_size: int, bits: int) -> int:
    """Words of a tensor: every block starts a new word."""
    full, rest = divmod(numel, block_size)
    return full * lanes.words_for(block_size, bits) + lanes.words_for(rest, bits)


def block_norms(x: np.ndarray, block_size: int) -> np.ndarray:
    """m[b] = max |x| over block b; +inf where the block has a NaN or an Inf.

    x: (numel,) of float16, float32, float64, or bfloat16 as uint16. Returns float32 (blocks,).
    NaN becomes +inf *before* the ranks' maxima are taken, because what MPI's maximum does with NaN is undefined.
    """
    x = floats.to_float32(x)
    padded = np.zeros(count_blocks(x.size, block_size) * block_size, dtype=np.float32)
    padded[: x.size] = np.where(np.isfinite(x), np.abs(x), np.float32(np.inf))
    return padded.reshape(-1, block_size).max(axis=1, initial=0)


def encode(x: np.ndarray, norms: np.ndarray, *, block_size: int, bits: int, levels: int, key: int) -> np.ndarray:
    """Words whose codes are q = clamp(floor(x * L / M + u), -L, L), u from the dither: E[q] = x * L / M.

    x: (numel,) as in ``block_norms``; norms: float32 (blocks,), the *agreed* M; returns int32 (words,).
    The expectation holds to 2^-16 of a level, the grain of the dither. Blocks with M = 0 or M = inf send zeros.
    """
    x = floats.to_float32(x)
    words = np.zeros(count_words(x.size, block_size, bits), dtype=np.int32)
    full, rest = divmod(x.size, block_size)
    split = full * lanes.words_for(block_size, bits)
    if full:
        whole = x[: full * block_size].reshape(full, block_size)
        _encode_rows(whole, norms[:full], words[:split], 0, bits, levels, key)
    if rest:
        _encode_rows(x[None, full * block_size :], norms[full:], words[split:], split, bits, levels, key)
    return words


def _encode_rows(
    rows: np.ndarray, norms: np.ndarray, out: np.ndarray, first_word: int, bits: int, levels: int, key: int
) -> None:
    usable = (norms > 0) & (norms < np.inf)
    tiny = norms < TINY_NORM
    lift = np.where(tiny, TINY_SCALE, np.float32(1))
    safe = np.where(usable, norms * lift, np.float32(1))
    scale = (np.float32(ONE * levels) / safe) * ROUND_UP
    limit = np.float32(ONE * levels)
    with np.errstate(invalid="ignore", over="ignore"):
        fixed = np.clip((rows * lift[:, None]) * scale[:, None], -limit, limit)
    fixed = np.where(usable[:, None], fixed, np.float32(0)).astype(np.int32)
    count, numel = rows.shape
    k, w = lanes.lanes_per_word(bits), lanes.words_for(numel, bits)
    index = np.arange(first_word, first_word + count * w, dtype=np.uint64).astype(np.uint32).reshape(count, w)
    noise = dither.dither_planes(key, index, k).reshape(count, k * w)[:, :numel]
    codes = (fixed + noise) >> dither.DITHER_BITS
    out[:] = lanes.pack(np.where(usable[:, None], codes, 0), bits).reshape(-1)


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
) -> np.ndarray:
    """x_hat = S * unit with unit = M * (factor / L), S the lane sums of ``words``; factor = 1/n gives the mean over n.

    words: int32 (words,), already summed; norms: float32 (blocks,); returns (numel,) of ``dtype``, bfloat16 as uint16.
    M = inf gives NaN for the whole block, M = 0 gives zeros.

    The product is one in float32, and half precisions round it once more. Its unit was rounded to float32 before, so a
    float32 is within 2^-24 + 2^-24 of S * unit, the first of which is the unit's. Units that would make float32
    subnormal or infinite stay in float64, as all of them do for a float64 result: those values are rounded once.
    """
    full, rest = divmod(numel, block_size)
    split = full * lanes.words_for(block_size, bits)
    sums = np.concatenate(
        [
            lanes.unpack(words[:split].reshape(full, -1), block_size, bits).reshape(-1) if full else words[:0],
            lanes.unpack(words[split:], rest, bits) if rest else words[:0],
        ]
    )
    unit = norms.astype(np.float64) * (float(factor) / float(levels))
    unit[np.isinf(norms)] = np.nan
    if dtype != "float64":
        single = (np.abs(unit) >= SMALLEST_UNIT) & (np.abs(unit) <= LARGEST_UNIT)
        unit[single] = unit[single].astype(np.float32)
    # A float64 holds 16 bits times 24 exactly: what rounds it to float32 makes the product that float32 would give.
    return floats.from_float64(sums.astype(np.float64) * np.repeat(unit, block_size)[:numel], dtype)
