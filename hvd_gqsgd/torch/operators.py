"""The kernels in PyTorch operators: for gradients on any device that the compiled kernels cannot read.

Bit-equal to hvd_gqsgd.maths, whose steps it follows. PyTorch has few unsigned operators, so hashes and words are int32:
sums and products wrap around in both, and a logical shift is an arithmetic one and a mask. Every rounding is one
operator of its own, so that no compiler contracts two into one. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths import dither, lanes, quantize


def _signed(value: int) -> int:
    """The int32 that has the low 32 bits of ``value``."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _shift_right(z: torch.Tensor, places: int) -> torch.Tensor:
    """Logical shift of an int32 tensor."""
    return (z >> places) & ((1 << (32 - places)) - 1)


def _hash32(counter: torch.Tensor, k0: int, k1: int) -> torch.Tensor:
    """dither.hash32 on int32 counters, in place."""
    z = counter.add_(_signed(k0))
    z ^= _shift_right(z, 16)
    z *= _signed(0x7FEB352D)
    z ^= _shift_right(z, 15)
    z ^= _signed(k1)
    z *= _signed(0x846CA68B)
    z ^= _shift_right(z, 16)
    return z


def _rows(x: torch.Tensor, block_size: int) -> list[torch.Tensor]:
    """x as blocks: (full, block_size), then (1, rest); without the empty ones."""
    split = x.numel() - x.numel() % block_size
    return [rows for rows in (x[:split].view(-1, block_size), x[split:].view(1, -1)) if rows.numel()]


class TorchKernels(Kernels):
    """Buffers are tensors, all of one device: gradients of any float dtype, norms float32, words int32."""

    name = "torch"

    @torch.no_grad()
    def block_norms(self, layout: Layout, tensors: Sequence[torch.Tensor], norms: torch.Tensor) -> None:
        for index, tensor in enumerate(tensors):
            start = layout.norms_offsets[index]
            for rows in _rows(tensor, layout.block_size):
                x = rows.float()
                x = torch.where(torch.isfinite(x), x.abs(), torch.inf)
                norms[start : start + len(rows)] = x.amax(dim=1)
                start += len(rows)

    @torch.no_grad()
    def encode(
        self,
        layout: Layout,
        tensors: Sequence[torch.Tensor],
        norms: torch.Tensor,
        words: torch.Tensor,
        *,
        levels: int,
        seed: int,
        step: int,
        rank: int,
    ) -> None:
        for index, tensor in enumerate(tensors):
            keys = dither.pair_keys(dither.tensor_key(seed, step, layout.members[index].tensor_id, rank)).tolist()
            norm, first_word = layout.norms_offsets[index], 0
            out = words[layout.words_of(index)]
            for rows in _rows(tensor, layout.block_size):
                fixed = _fixed_point(rows.float(), norms[norm : norm + len(rows), None], levels)
                packed = _dither_and_pack(fixed, first_word, layout.bits, keys)
                out[first_word : first_word + packed.numel()] = packed.view(-1)
                norm, first_word = norm + len(rows), first_word + packed.numel()

    @torch.no_grad()
    def decode(
        self,
        layout: Layout,
        tensors: Sequence[torch.Tensor],
        words: torch.Tensor,
        norms: torch.Tensor,
        *,
        levels: int,
        factor: float,
    ) -> None:
        for index, tensor in enumerate(tensors):
            unit = _unit(norms[layout.norms_of(index), None], float(factor) / float(levels), tensor.dtype)
            source = words[layout.words_of(index)]
            norm = first_word = 0
            for rows in _rows(tensor, layout.block_size):
                count = len(rows) * lanes.words_for(rows.shape[1], layout.bits)
                packed = source[first_word : first_word + count].view(len(rows), -1)
                values = _unpack(packed, rows.shape[1], layout.bits).double() * unit[norm : norm + len(rows)]
                rows.copy_(values if tensor.dtype == torch.float64 else values.float())
                # Devices and vector units disagree about the bits of a converted NaN.
                rows.masked_fill_(torch.isnan(values), torch.nan)
                norm, first_word = norm + len(rows), first_word + count


def _fixed_point(rows: torch.Tensor, norms: torch.Tensor, levels: int) -> torch.Tensor:
    """x * L / M in units of a level / 65536, clamped: int32 like rows (blocks, m); 0 where M is 0 or not finite."""
    usable = (norms > 0) & torch.isfinite(norms)
    lift = torch.ones_like(norms).masked_fill_(norms < float(quantize.TINY_NORM), float(quantize.TINY_SCALE))
    safe = torch.where(usable, norms * lift, 1.0)
    limit = float(quantize.ONE * levels)
    # Tensor by tensor: a number divided by a tensor would be a product with its rounded reciprocal.
    scale = torch.full_like(safe, limit).div(safe).mul(float(quantize.ROUND_UP))
    fixed = rows.mul(lift).mul_(scale).clamp_(-limit, limit)
    return torch.where(usable, fixed, 0.0).to(torch.int32)


def _dither_and_pack(fixed: torch.Tensor, first_word: int, bits: int, keys: list[list[int]]) -> torch.Tensor:
    """Words (blocks, W) of the codes floor(fixed / 65536 + u); slots past the end of a block hold code 0."""
    blocks, numel = fixed.shape
    count, width = lanes.lanes_per_word(bits), lanes.words_for(numel, bits)
    packed = torch.zeros(blocks, width, dtype=torch.int32, device=fixed.device)
    index = torch.arange(blocks * width, dtype=torch.int32, device=fixed.device).view(blocks, width)
    hashed = index
    for lane in range(count):
        here = fixed[:, lane * width : (lane + 1) * width]
        if here.shape[1] == 0:
            break
        if lane % 2 == 0:
            hashed = _hash32(index + _signed(first_word), *keys[lane // 2])
            noise = hashed & 0xFFFF
        else:
            noise = _shift_right(hashed, 16)
        codes = (here + noise[:, : here.shape[1]]) >> dither.DITHER_BITS
        packed[:, : here.shape[1]] += codes << (lane * bits)
    return packed


def _unit(norms: torch.Tensor, factor: float, dtype: torch.dtype) -> torch.Tensor:
    """M * factor in float64, rounded to float32 where decode to ``dtype`` does; NaN for M = inf."""
    unit = torch.where(torch.isinf(norms), torch.nan, norms.double() * factor)
    if dtype == torch.float64:
        return unit
    size = unit.abs()
    single = (size >= quantize.SMALLEST_UNIT) & (size <= quantize.LARGEST_UNIT)
    return torch.where(single, unit.float().double(), unit)


def _unpack(words: torch.Tensor, numel: int, bits: int) -> torch.Tensor:
    """Lane sums, int32 (blocks, numel), of words (blocks, W)."""
    count, width = lanes.lanes_per_word(bits), words.shape[1]
    half = 1 << (bits - 1)
    biased = words + _signed(sum(half << (lane * bits) for lane in range(count)))
    sums = torch.empty(len(words), numel, dtype=torch.int32, device=words.device)
    for lane in range(-(-numel // width)):
        here = sums[:, lane * width : (lane + 1) * width]
        here[:] = (((biased >> (lane * bits)) & ((1 << bits) - 1)) - half)[:, : here.shape[1]]
    return sums
