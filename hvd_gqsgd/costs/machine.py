"""Speeds of this machine that need no network: the kernels, adding, and casting, on NumPy arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from hvd_gqsgd import kernels
from hvd_gqsgd.costs.choices import FLOAT32_BYTES, WIDTHS
from hvd_gqsgd.costs.rates import CYCLE_S, DTYPES, SMALL_COLLECTIVES, KernelSpeeds, Rates
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.schemes.cutting import BUCKET_BYTES
from hvd_gqsgd.schemes.global_qsgd import GlobalQSGD

#: Buckets of gradient, more than caches hold, so that a pass finds them in memory, as a step does.
BUCKETS = 8
#: Payload of a link's nominal speed: 1,448 bytes of TCP's in each 1,538 of Ethernet's.
GOODPUT = 1448 / 1538
#: What a rank pays for a tensor beside its bytes, and the share that hides, where nobody measured. On two cores
#: without a GPU a running world had 20 to 100 microseconds, and shares from 0 (loopback) to 1 (a slow link).
PLAIN_TENSOR_S, COMPRESSED_TENSOR_S, BUCKET_S, OVERLAP = 3e-5, 1e-4, 1e-3, 0.5
#: Nominal figures leave out what a protocol and an allreduce's algorithm make of a link: up to half of it.
GIVEN_ERROR = 0.5
TURN = Turn(seed=0, step=0, rank=0, size=1)


class KernelPasses:
    """One pass of a kernel over ``buckets`` buckets of gradients, for each verb and width."""

    def __init__(self, threads: int = 0, buckets: int = BUCKETS) -> None:
        self.buckets = buckets
        random = np.random.default_rng(0)
        numel = BUCKET_BYTES // FLOAT32_BYTES
        members = {bits: (Member(tensor_id=1, numel=numel, dtype="float32", bits=bits),) for bits in WIDTHS}
        settings = GlobalQSGD().layout_settings()
        self._layouts = {bits: Layout(members=members[bits], **settings) for bits in WIDTHS}
        self._gradients = [random.standard_normal(numel, dtype=np.float32) for _ in range(buckets)]
        self._norms = [np.ones(self._layouts[8].norms_numel, np.float32) for _ in range(buckets)]
        longest = max(layout.words_numel for layout in self._layouts.values())
        self._words = [np.zeros(longest, np.int32) for _ in range(buckets)]
        self._kernels = kernels.select(threads=threads)

    def norms(self) -> None:
        for gradient, norms in zip(self._gradients, self._norms, strict=True):
            self._kernels.block_norms(self._layouts[8], [gradient], norms, TURN)

    def encode(self, bits: int) -> None:
        for index in range(self.buckets):
            self.encode_bucket(bits, index)

    def encode_bucket(self, bits: int, index: int) -> None:
        gradient, norms, words = self._gradients[index], self._norms[index], self._words[index]
        layout = self._layouts[bits]
        self._kernels.encode(layout, [gradient], norms, words, TURN)

    def decode(self, bits: int) -> None:
        """After ``encode`` at the same width: gradients keep their magnitude."""
        layout = self._layouts[bits]
        for gradient, norms, words in zip(self._gradients, self._norms, self._words, strict=True):
            self._kernels.decode(layout, [gradient], words, norms, TURN, factor=1.0)

    def each(self) -> dict[str, Callable[[], None]]:
        """Every pass by name, in an order in which each finds what it reads."""
        passes: dict[str, Callable[[], None]] = {"norms": self.norms}
        for bits in WIDTHS:
            passes[f"encode {bits}"] = partial(self.encode, bits)
            passes[f"decode {bits}"] = partial(self.decode, bits)
        return passes

    def speeds(self, seconds: Mapping[str, float]) -> dict[int, KernelSpeeds]:
        """Bits -> speeds, from the seconds that the passes of ``each`` took."""
        size_bytes = self.buckets * BUCKET_BYTES
        return {
            bits: KernelSpeeds(
                norms=size_bytes / seconds["norms"],
                encode=size_bytes / seconds[f"encode {bits}"],
                decode=size_bytes / seconds[f"decode {bits}"],
            )
            for bits in WIDTHS
        }


class SumPass:
    """Adding one array of ``size_bytes`` to another, as an allreduce does with what arrives."""

    def __init__(self, size_bytes: int = 4 * BUCKET_BYTES) -> None:
        self.size_bytes = size_bytes
        self._mine, self._theirs = np.ones((2, size_bytes // FLOAT32_BYTES), np.float32)

    def run(self) -> None:
        np.add(self._mine, self._theirs, out=self._mine)

    def run_fresh(self) -> np.ndarray:
        return self._mine + self._theirs


def given_rates(*, ranks: int, bandwidth: float, hop_s: float, threads: int = 0, rounds: int = 5) -> Rates:
    """Rates of a network that is told, and of this machine's own speeds, measured here in about a second.

    Half-precision payloads are taken to be added as fast per byte as float32, as Horovod does it with MPI and F16C;
    casting to fp16 and back, to be as fast as adding into fresh memory, which moves as many bytes. NumPy's own casts
    are several times slower than a framework's.
    """
    passes = KernelPasses(threads)
    adding = SumPass()
    timed = {
        **passes.each(),
        "sum": adding.run,
        "sum into fresh memory": adding.run_fresh,
    }
    seconds = shortest_seconds(timed, rounds)
    return Rates(
        source="given",
        ranks=ranks,
        latency_s=CYCLE_S + SMALL_COLLECTIVES * 2 * float(np.log2(ranks)) * hop_s,
        hop_s=hop_s,
        bandwidth=bandwidth,
        reduce=dict.fromkeys(DTYPES, adding.size_bytes / seconds["sum"]),
        cast=adding.size_bytes / seconds["sum into fresh memory"],
        kernels=passes.speeds(seconds),
        plain_tensor_s=PLAIN_TENSOR_S,
        compressed_tensor_s=COMPRESSED_TENSOR_S,
        bucket_s=BUCKET_S,
        overlap=OVERLAP,
        error=GIVEN_ERROR,
        threads=threads or int(kernels.describe()["threads"]),
    )


def shortest_seconds(timed: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each function at its quickest, all of them in turn: other work here is no property of the machine."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, function in timed.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}
