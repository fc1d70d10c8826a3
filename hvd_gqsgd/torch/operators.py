"""The kernels in PyTorch operators: for gradients on any device that the compiled kernels cannot read.

Bit-equal to hvd_gqsgd.maths, whose steps it follows. PyTorch has few unsigned operators, so hashes and words are int32:
sums and products wrap around in both, and a logical shift is an arithmetic one and a mask. Every rounding is one
operator of its own, so that no compiler contracts two into one. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths import dither, lanes, quantize, rotation
from hvd_gqsgd.maths.dither import Dither, Turn
from hvd_gqsgd.maths.levels import count_levels


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


class TorchKernels(Kernels):
    """Buffers are tensors, all of one device: gradients of any float dtype, norms float32, words int32."""

    name = "torch"

    @torch.no_grad()
    def block_norms(
        self,
        layout: Layout,
        tensors: Sequence[torch.Tensor],
        norms: torch.Tensor,
        turn: Turn,
        residuals: Sequence[torch.Tensor] = (),
    ) -> None:
        for index, tensor in enumerate(tensors):
            signs = _signs(layout, index, turn)
            own = norms[layout.norms_of(index)]
            given = _with_residual(tensor, residuals, index)
            for part in _parts(layout, index):
                x = given[part.elements].view(part.blocks, part.numel)
                norm = torch.where(torch.isfinite(x), x.abs(), torch.inf).amax(dim=1, keepdim=True)
                if signs is not None:
                    lift = _lift(norm)
                    finite = torch.where(torch.isinf(norm), 0.0, x)
                    rotated = rotate(finite * lift, part.first_block, layout.block_size, signs)
                    norm = torch.where(torch.isinf(norm), norm, _lowered(rotated.abs().amax(dim=1, keepdim=True), lift))
                own[part.first_block : part.first_block + part.blocks] = norm[:, 0]

    @torch.no_grad()
    def encode(
        self,
        layout: Layout,
        tensors: Sequence[torch.Tensor],
        norms: torch.Tensor,
        words: torch.Tensor,
        turn: Turn,
        residuals: Sequence[torch.Tensor] = (),
    ) -> None:
        for index, tensor in enumerate(tensors):
            member, signs = layout.members[index], _signs(layout, index, turn)
            levels = count_levels(member.bits, turn.summed)
            noise = dither.dither_of(layout.dither, turn, member.tensor_id)
            out, given = words[layout.words_of(index)], _with_residual(tensor, residuals, index)
            for part in _parts(layout, index):
                norm = norms[layout.norms_of(index), None][part.first_block : part.first_block + part.blocks]
                usable, lift = (norm > 0) & torch.isfinite(norm), _lift(norm)
                rows = torch.where(usable, given[part.elements].view(part.blocks, part.numel), 0.0) * lift
                if signs is not None:
                    rows = rotate(rows, part.first_block, layout.block_size, signs)
                fixed = _fixed_point(rows, torch.where(usable, norm * lift, 1.0), levels)
                packed = _dither_and_pack(torch.where(usable, fixed, 0), part.first_word, member.bits, noise, usable)
                out[part.first_word : part.first_word + packed.numel()] = packed.view(-1)
                if residuals:
                    codes = _unpack(packed, part.numel, member.bits)
                    sent = (codes.double() * _unit(norm, 1 / levels, single=True)).float()
                    rest = rows * (1.0 / lift) - sent
                    if signs is not None:
                        rest = unrotate(rest, part.first_block, layout.block_size, signs)
                    left = residuals[index][part.elements].view(part.blocks, part.numel)
                    left.copy_(torch.where(torch.isinf(norm), left, torch.where(norm == 0, 0.0, rest)))

    @torch.no_grad()
    def decode(
        self,
        layout: Layout,
        tensors: Sequence[torch.Tensor],
        words: torch.Tensor,
        norms: torch.Tensor,
        turn: Turn,
        *,
        factor: float,
    ) -> None:
        for index, tensor in enumerate(tensors):
            member, signs = layout.members[index], _signs(layout, index, turn)
            exact = tensor.dtype == torch.float64 and signs is None
            norm = norms[layout.norms_of(index), None]
            unit = _unit(norm, float(factor) / float(count_levels(member.bits, turn.summed)), single=not exact)
            source = words[layout.words_of(index)]
            for part in _parts(layout, index):
                rows = tensor[part.elements].view(part.blocks, part.numel)
                blocks = slice(part.first_block, part.first_block + part.blocks)
                packed = source[part.first_word :][: part.blocks * lanes.words_for(part.numel, member.bits)]
                values = _unpack(packed.view(part.blocks, -1), part.numel, member.bits).double() * unit[blocks]
                if signs is not None:
                    infinite = torch.isinf(norm[blocks])
                    single = torch.where(infinite, 0.0, values).float()
                    back = unrotate(single, part.first_block, layout.block_size, signs)
                    values = torch.where(infinite, torch.nan, back.double())
                rows.copy_(values if tensor.dtype == torch.float64 else values.float())
                # Devices and vector units disagree about the bits of a converted NaN.
                rows.masked_fill_(torch.isnan(values), torch.nan)


def _parts(layout: Layout, index: int) -> Iterator[quantize.Rows]:
    member = layout.members[index]
    return quantize.rows_of(member.numel, layout.block_size, member.bits)


def _signs(layout: Layout, index: int, turn: Turn) -> tuple[int, int] | None:
    """Keys of the rotation's signs; None without a rotation."""
    if not layout.rotated:
        return None
    k0, k1 = dither.pair_keys(rotation.rotation_key(turn.seed, layout.members[index].tensor_id))[0].tolist()
    return k0, k1


def _with_residual(tensor: torch.Tensor, residuals: Sequence[torch.Tensor], index: int) -> torch.Tensor:
    x = tensor.float()
    return x + residuals[index] if residuals else x


def _lift(norms: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(norms).masked_fill_(norms < float(quantize.TINY_NORM), float(quantize.TINY_SCALE))


def _lowered(norms: torch.Tensor, lift: torch.Tensor) -> torch.Tensor:
    """quantize._lowered."""
    lowered = norms * (1.0 / lift)
    return torch.where(lowered * lift < norms, torch.nextafter(lowered, torch.full_like(lowered, torch.inf)), lowered)


def rotate(rows: torch.Tensor, first_block: int, block_size: int, keys: tuple[int, int]) -> torch.Tensor:
    """rotation.rotate of float32 (blocks, m)."""
    m = rows.shape[1]
    d = rotation.width_of(m)
    root = float(rotation.root_of(d))
    y = rows * (1 / d)
    y[:, :d] = _hadamard(_flip(y[:, :d], first_block, 0, block_size, keys))
    if d < m:
        y[:, :d] *= root
        y[:, m - d :] = _hadamard(_flip(y[:, m - d :], first_block, 1, block_size, keys)) * root
    return y


def unrotate(rows: torch.Tensor, first_block: int, block_size: int, keys: tuple[int, int]) -> torch.Tensor:
    """rotation.unrotate of float32 (blocks, m)."""
    m = rows.shape[1]
    d = rotation.width_of(m)
    root = float(rotation.root_of(d))
    x = rows.clone()
    if d < m:
        x[:, m - d :] = _flip(_hadamard(x[:, m - d :]) * root, first_block, 1, block_size, keys)
    x[:, :d] = _hadamard(x[:, :d])
    if d < m:
        x[:, :d] *= root
    x[:, :d] = _flip(x[:, :d], first_block, 0, block_size, keys)
    return x * d if d < m else x


def _hadamard(rows: torch.Tensor) -> torch.Tensor:
    blocks, d = rows.shape
    stride = 1
    while stride < d:
        low, high = rows.reshape(blocks, d // (2 * stride), 2, stride).unbind(2)
        rows = torch.stack([low + high, low - high], dim=2).view(blocks, d)
        stride *= 2
    return rows


def _flip(rows: torch.Tensor, first_block: int, turn: int, block_size: int, keys: tuple[int, int]) -> torch.Tensor:
    blocks, d = rows.shape
    per_pass = -(-block_size // 32)
    starts = torch.arange(blocks, device=rows.device, dtype=torch.int64).add_(first_block).mul_(2).add_(turn)
    counters = starts.mul_(per_pass)[:, None] + torch.arange(-(-d // 32), device=rows.device)
    # The low 32 bits of each.
    counters = ((counters + (1 << 31)) & 0xFFFFFFFF).sub_(1 << 31).to(torch.int32)
    bits = _hash32(counters, *keys)[:, :, None] >> torch.arange(32, device=rows.device, dtype=torch.int32)
    signs = (bits.reshape(blocks, -1)[:, :d] & 1) << 31
    return (rows.contiguous().view(torch.int32) ^ signs).view(torch.float32)


def _fixed_point(rows: torch.Tensor, norms: torch.Tensor, levels: int) -> torch.Tensor:
    """x * L / M in units of a level / 65536, clamped: int32 like rows (blocks, m)."""
    limit = float(dither.ONE * levels)
    # Tensor by tensor: a number divided by a tensor would be a product with its rounded reciprocal.
    scale = torch.full_like(norms, limit).div(norms).mul(float(quantize.ROUND_UP))
    return rows.mul(scale).clamp_(-limit, limit).to(torch.int32)


def _dither_and_pack(
    fixed: torch.Tensor, first_word: int, bits: int, noise: Dither, usable: torch.Tensor
) -> torch.Tensor:
    """Words (blocks, W) of the codes floor(fixed / 65536 + u); code 0 past the end of a block and where not usable."""
    blocks, numel = fixed.shape
    count, width = lanes.lanes_per_word(bits), lanes.words_for(numel, bits)
    keys = dither.pair_keys(noise.key).tolist()
    packed = torch.zeros(blocks, width, dtype=torch.int32, device=fixed.device)
    index = torch.arange(blocks * width, dtype=torch.int32, device=fixed.device).view(blocks, width)
    hashed = index
    for lane in range(count):
        here = fixed[:, lane * width : (lane + 1) * width]
        if here.shape[1] == 0:
            break
        if lane % 2 == 0:
            hashed = _hash32(index + _signed(first_word), *keys[lane // 2])
            half = hashed & 0xFFFF
        else:
            half = _shift_right(hashed, 16)
        drawn = ((half[:, : here.shape[1]] + noise.shift) & noise.keep) ^ noise.flip
        codes = torch.where(usable, (here + drawn) >> dither.DITHER_BITS, 0)
        packed[:, : here.shape[1]] += codes << (lane * bits)
    return packed


def _unit(norms: torch.Tensor, factor: float, *, single: bool) -> torch.Tensor:
    """quantize._unit: M * factor in float64, rounded to float32 if ``single`` and where that spoils nothing."""
    unit = torch.where(torch.isinf(norms), torch.nan, norms.double() * factor)
    if not single:
        return unit
    size = unit.abs()
    fits = (size >= quantize.SMALLEST_UNIT) & (size <= quantize.LARGEST_UNIT)
    return torch.where(fits, unit.float().double(), unit)


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
