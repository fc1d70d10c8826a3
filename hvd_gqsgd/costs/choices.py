"""What can be chosen, and the bytes that it hands to Horovod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_gqsgd.maths import levels, quantize
from hvd_gqsgd.schemes import cutting
from hvd_gqsgd.schemes.global_qsgd import GlobalQSGD

#: Of all widths that send as many bytes, the one with most levels: 7 bits need a lane of 8 all the same.
WIDTHS = tuple(
    bits for bits in range(levels.MIN_BITS, levels.MAX_BITS + 1) if bits == 16 or 32 // bits > 32 // (bits + 1)
)
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Choice:
    """``name`` is "none", "fp16" or GlobalQSGD's "8 bits"; ``bits`` is None for the first two."""

    name: str
    bits: int | None = None

    @classmethod
    def of_bits(cls, bits: int) -> Choice:
        return cls(f"{bits} bits", bits)

    @property
    def scheme(self) -> GlobalQSGD | None:
        return None if self.bits is None else GlobalQSGD(bits=self.bits)

    @property
    def code(self) -> str:
        """The argument of hvd.DistributedOptimizer."""
        if self.bits is None:
            return f"compression=hvd.Compression.{self.name}"
        return f"compression=GlobalQSGD(bits={self.bits})"

    def levels(self, n: int) -> int | None:
        """Levels on each side of zero among ``n`` ranks; None where nothing is rounded to levels."""
        return None if self.bits is None else levels.count_levels(self.bits, n)


NONE = Choice("none")
FP16 = Choice("fp16")


def choices(n: int) -> list[Choice]:
    """What works for ``n`` ranks, from the most to the least accurate.

    >>> [choice.name for choice in choices(8)]
    ['none', 'fp16', '16 bits', '10 bits', '8 bits', '6 bits', '5 bits']
    """
    fitting = [bits for bits in reversed(WIDTHS) if levels.max_lane_sum(bits) >= n]
    return [NONE, FP16, *map(Choice.of_bits, fitting)]


@dataclass(frozen=True, kw_only=True)
class Payload:
    """What one rank hands to Horovod in a step, in bytes by dtype.

    buckets: gradient bytes of each one. compressed, plain: how many tensors are in buckets, and how many are not.
    """

    float32: int = 0
    float16: int = 0
    int32: int = 0
    buckets: tuple[int, ...] = ()
    compressed: int = 0
    plain: int = 0

    @property
    def size_bytes(self) -> int:
        return self.float32 + self.float16 + self.int32


def payload(choice: Choice, numels: Sequence[int]) -> Payload:
    """The payload of float32 gradients of ``numels`` elements."""
    total = sum(numels)
    scheme = choice.scheme
    if scheme is None or choice.bits is None:
        half = choice == FP16
        return Payload(float16=2 * total * half, float32=FLOAT32_BYTES * total * (not half), plain=len(numels))
    large = [numel for numel in numels if scheme.bits_of("", (numel,)) is not None]
    norms = sum(quantize.count_blocks(numel, scheme.block_size) for numel in large)
    words = sum(quantize.count_words(numel, scheme.block_size, choice.bits) for numel in large)
    buckets = cutting.cut([(numel, FLOAT32_BYTES) for numel in large], scheme.block_size)
    return Payload(
        float32=FLOAT32_BYTES * (total - sum(large) + norms),
        int32=4 * words,
        buckets=tuple(FLOAT32_BYTES * sum(piece.numel for piece in bucket) for bucket in buckets),
        compressed=len(large),
        plain=len(numels) - len(large),
    )


def model_of(parameters: int, largest_numel: int = 1 << 20) -> list[int]:
    """Tensor sizes of a model of which only the number of parameters is known: 2^20 elements each, and the rest.

    >>> model_of(2_500_000)
    [1048576, 1048576, 402848]
    """
    whole, rest = divmod(parameters, largest_numel)
    return [largest_numel] * whole + [rest] * (rest > 0)
