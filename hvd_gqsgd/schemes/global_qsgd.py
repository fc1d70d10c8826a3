"""Global-QSGD with standard dithering (arXiv 2305.18627, section 4), with one norm per block.

    M[b] = max_i max_j |x_ij| over block b                         one Max
    q_i  = floor(x_i * L / M + u),  L = (2^(bits-1) - 1) // n      E[q_i] = x_i * L / M
    mean = M / (L * n) * sum_i q_i                                 one Sum, exact in the lanes of int32 words

Unbiased, and the variance of the mean is at most (M / L)^2 / (4 n) per element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.maths import levels
from hvd_gqsgd.schemes.base import Bucket, Exchange, Max, Scheme, Sum, World

MAX_BLOCK_SIZE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class GlobalQSGD(Scheme):
    """Settings of Global-QSGD.

    bits: width of an element on the wire, 2 to 16. Headroom for the sum is taken from it: n ranks have
        (2^(bits-1) - 1) // n levels on each side of zero.
    block_size: elements that share one float32 norm. Smaller blocks mean less error and 32 / block_size bits more.
    min_numel: tensors with fewer elements are sent as Horovod would send them.
    seed: of the dither, which is a function of (seed, step, tensor, rank).
    """

    bits: int = 8
    block_size: int = 256
    min_numel: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_integer("bits", levels.MIN_BITS, levels.MAX_BITS)
        self._require_integer("block_size", 1, MAX_BLOCK_SIZE)
        self._require_integer("min_numel", 0, (1 << 63) - 1)
        self._require_integer("seed", 0, (1 << 64) - 1)

    def compresses(self, numel: int) -> bool:
        return numel >= max(1, self.min_numel)

    def layout_settings(self) -> dict[str, int]:
        return {"block_size": self.block_size, "bits": self.bits}

    def check_world(self, size: int) -> None:
        levels.count_levels(self.bits, size)

    def exchange(self, bucket: Bucket, kernels: Kernels, world: World, *, valid: bool = True) -> Exchange:
        bucket.write_check(valid)
        kernels.block_norms(bucket.layout, bucket.tensors, bucket.norms)
        yield Max(bucket.norms)
        bucket.verify_check()
        bucket.count_this_rank()
        kernels.encode(
            bucket.layout,
            bucket.tensors,
            bucket.norms,
            bucket.words,
            levels=world.levels(self.bits),
            seed=self.seed,
            step=bucket.step,
            rank=world.rank,
        )
        yield Sum(bucket.words)

    def decode(self, bucket: Bucket, kernels: Kernels, world: World, out: Sequence[Buffer], *, scale: float) -> None:
        kernels.decode(
            bucket.layout,
            out,
            bucket.words,
            bucket.norms,
            levels=world.levels(self.bits),
            factor=bucket.per_contributor(scale),
        )
