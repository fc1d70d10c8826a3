"""Reduction in two phases: every rank adds up one share of the blocks, then hands its mean to all others.

    words of share r  ->  rank r             one AllToAll
    norms and words of the mean, share r     one AllGather

An allreduce's bytes, 2 (n - 1) / n of the words; but a lane carries one code at a time and never a sum, so all of its
levels are there whatever n is, and what a rank does to add up is its own affair. The price is a second rounding: with
one norm m of the mean per block, at most the ranks' M, a variance of at most (m / L)^2 / 4 for n ranks together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.layout import NORMS_HEADER, WORDS_HEADER, Layout, Member
from hvd_gqsgd.maths import quantize
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.schemes import presence
from hvd_gqsgd.schemes.agreement import tensor_id
from hvd_gqsgd.schemes.base import AllGather, AllToAll, Bucket, Exchange, Kind, Max, World

#: Of an exchange with its norms.
STAGES: list[list[Kind]] = [[(Max, "float32")], [(AllToAll, "int32")], [(AllGather, "int32")]]


@dataclass(frozen=True)
class _Share:
    """The blocks that one rank adds up.

    norms, words: where they lie in the bucket's buffers, headers left out. layout: of their mean; its blocks are the
    bucket's, already rotated where that rotates.
    """

    norms: slice
    words: slice
    layout: Layout

    @property
    def numel(self) -> int:
        return sum(member.numel for member in self.layout.members)

    def split(self, flat: np.ndarray) -> list[np.ndarray]:
        """The members' own parts of ``numel`` elements."""
        ends = accumulate((member.numel for member in self.layout.members), initial=0)
        return [flat[start:end] for start, end in pairwise(ends)]


class _Desk(NamedTuple):
    """Where a rank works on its share: float32 (elements,) twice, norms and words of its layout, what it sends on."""

    mean: np.ndarray
    addend: np.ndarray
    norms: np.ndarray
    words: np.ndarray
    gathered: np.ndarray


def agree_on_norms(bucket: Bucket, world: World) -> Exchange:
    """The Max of ``bucket.norms``. Raises UnsupportedError on all ranks but one that has joined."""
    present = yield from presence.largest([bucket.norms], world)
    presence.require_all(bucket, world, present)


def exchange(bucket: Bucket, kernels: Kernels, world: World, turn: Turn) -> Exchange:
    """From words in ``bucket.words``, written with ``turn``, to the words and norms of the mean, in their place.

    turn: of codes that stand alone (summands=1). The mean's are read back with ``turn``, factor = 1.
    """
    shares = _shares(bucket, world.size)
    own = shares[world.rank]
    parcels = [share.words.stop - share.words.start for share in shares]
    received = yield AllToAll(bucket.words[WORDS_HEADER:], parcels)
    desk = _desk(bucket, world, own)
    desk.norms[NORMS_HEADER:] = bucket.norms[NORMS_HEADER:][own.norms]
    _average(own, kernels, received.reshape(world.size, -1), desk, turn)
    # Nobody else draws with these names.
    alone = turn._replace(rank=0, size=1)
    kernels.block_norms(own.layout, own.split(desk.mean), desk.norms, alone)
    kernels.encode(own.layout, own.split(desk.mean), desk.norms, desk.words, alone)
    count = desk.norms.size - NORMS_HEADER
    desk.gathered[:count] = desk.norms[NORMS_HEADER:].view(np.int32)
    desk.gathered[count:] = desk.words[WORDS_HEADER:]
    received = yield AllGather(desk.gathered)
    start = 0
    for share in shares:
        blocks, length = share.norms.stop - share.norms.start, share.words.stop - share.words.start
        bucket.norms[NORMS_HEADER:][share.norms] = received[start : start + blocks].view(np.float32)
        bucket.words[WORDS_HEADER:][share.words] = received[start + blocks : start + blocks + length]
        start += blocks + length


def _average(own: _Share, kernels: Kernels, parcels: np.ndarray, desk: _Desk, turn: Turn) -> None:
    """desk.mean = the average of what every rank sent for the blocks of this one, whose norms are in desk.norms."""
    for number, parcel in enumerate(parcels):
        desk.words[WORDS_HEADER:] = parcel
        into = desk.addend if number else desk.mean
        kernels.decode(own.layout, own.split(into), desk.words, desk.norms, turn, factor=1 / len(parcels))
        if number:
            np.add(desk.mean, desk.addend, out=desk.mean)


def _desk(bucket: Bucket, world: World, own: _Share) -> _Desk:
    """Kept for the next step: to touch fresh memory takes longer than to work in it."""
    key = "two_phase desk", world.size, world.rank
    if key not in bucket.scratch:
        layout = own.layout
        bucket.scratch[key] = _Desk(
            mean=np.zeros(own.numel, np.float32),
            addend=np.zeros(own.numel, np.float32),
            norms=np.zeros(layout.norms_numel, np.float32),
            words=np.zeros(layout.words_numel, np.int32),
            gathered=np.zeros(layout.norms_numel - NORMS_HEADER + layout.words_numel - WORDS_HEADER, np.int32),
        )
    return bucket.scratch[key]


def _shares(bucket: Bucket, size: int) -> list[_Share]:
    """Every rank's share, as equal in blocks as can be, in the order of the ranks."""
    key = "two_phase shares", size
    if key not in bucket.scratch:
        layout = bucket.layout
        total = layout.norms_numel - NORMS_HEADER
        bucket.scratch[key] = [_share(bucket, total * rank // size, total * (rank + 1) // size) for rank in range(size)]
    return bucket.scratch[key]


def _share(bucket: Bucket, begin: int, end: int) -> _Share:
    """Blocks [begin, end) of the bucket."""
    layout = bucket.layout
    members: list[Member] = []
    first_word = last_word = 0
    before = 0
    for index, member in enumerate(layout.members):
        blocks = quantize.count_blocks(member.numel, layout.block_size)
        low, high = max(begin, before) - before, min(end, before + blocks) - before
        if low < high:
            start, stop = low * layout.block_size, min(high * layout.block_size, member.numel)
            offset = layout.words_offsets[index] - WORDS_HEADER
            if not members:
                first_word = offset + quantize.count_words(start, layout.block_size, member.bits)
            last_word = offset + quantize.count_words(stop, layout.block_size, member.bits)
            label = f"{bucket.labels[index]}.mean[{start}:]"
            members.append(Member(tensor_id=tensor_id(label), numel=stop - start, dtype="float32", bits=member.bits))
        before += blocks
    # Drawn by one rank alone: it has nobody to correlate with, and rounding to nearest would not be unbiased.
    own = Layout(
        members=tuple(members),
        block_size=layout.block_size,
        rotated=False,
        dither="independent",
        levels=layout.levels,
    )
    return _Share(slice(begin, end), slice(first_word, last_word), own)
