"""Measures, inside a running world, what the cost model (``hvd_gqsgd.costs``) needs to know."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median, quantiles

import horovod.torch as hvd
import torch

from hvd_gqsgd.costs.choices import Choice
from hvd_gqsgd.costs.machine import BUCKETS, KernelPasses, SumPass
from hvd_gqsgd.costs.model import aggregation_seconds
from hvd_gqsgd.costs.rates import CYCLE_S, DTYPES, SMALL_COLLECTIVES, Rates
from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.maths import levels
from hvd_gqsgd.schemes.cutting import BUCKET_BYTES
from hvd_gqsgd.torch.compressor import GlobalQSGD
from hvd_gqsgd.torch.traffic import traffic

#: Elements of the measured gradient at most: 64 MiB as float32.
MOST_NUMEL = 1 << 24
LEAST_NUMEL = 1 << 18
#: Tensors that a payload is made of, so that Horovod fuses and copies them as it does a model's.
PARTS = 8
#: Bytes per element of what a gradient travels as, words at 8 bits.
PAYLOADS = {"float32": 4, "float16": 2, "int32": 1}
#: How often everything is measured: fewer where the network is slow, more tell nothing new.
LEAST_ROUNDS, USUAL_ROUNDS, MOST_ROUNDS = 3, 6, 30
SMALL_TENSORS, SMALL_NUMEL = 64, 16
#: What takes milliseconds is at the mercy of whatever else runs: measured this often in each round.
QUICK, SMALL_REPEATS = ("small", "plain tensors", "compressed tensors"), 5
#: Predictions are not better than this, however steady the measurements.
LEAST_ERROR = 0.2


def measure_rates(process_set: hvd.ProcessSet = hvd.global_process_set, seconds: float = 10.0) -> Rates:
    """Rates of this world, the same on every rank; collective over ``process_set``, after ``hvd.init()``.

    Takes about ``seconds``, at least three rounds: 15 s at 100 Mbit/s. Everything is measured in turn, all ranks at
    once, so that they share cores as they do in training; medians over rounds, then the slowest rank's. The kernels
    run with torch.get_num_threads() threads.

    What one size of world cannot separate is folded: ``bandwidth`` holds all that costs every byte alike (link,
    protocol, copies into Horovod's fusion buffer, the algorithm's distance from a ring); ``reduce`` is adding as
    measured beside the network, and for dtypes that are slower than the fastest, the difference too.

    Raises SettingsError in a world of one rank, where nothing travels.
    """
    if process_set.size() == 1:
        raise SettingsError(
            "measure_rates in a world of 1 rank: expected 2 or more, since with one nothing travels; start several "
            "with `horovodrun -np 2 ...`"
        )
    sent, dense = traffic.sent_bytes, traffic.dense_bytes
    try:
        return _Measurement(process_set, seconds).rates()
    finally:
        traffic.sent_bytes, traffic.dense_bytes = sent, dense


class _Measurement:
    """Buffers, the functions to time, and what they took."""

    def __init__(self, process_set: hvd.ProcessSet, seconds: float) -> None:
        self._process_set = process_set
        self._ranks = process_set.size()
        # Of what is measured as a whole: the usual width, or in a large world one that has a level.
        self._bits = 8 if levels.max_lane_sum(8) >= self._ranks else levels.MAX_BITS
        self._deadline = time.perf_counter() + seconds
        self._small = torch.zeros(1024)
        self._numel = self._affordable_numel(seconds)
        self._payloads = {
            dtype: [torch.ones(self._numel // PARTS, dtype=getattr(torch, dtype)) for _ in range(PARTS)]
            for dtype in DTYPES
        }
        # Words of 8 bits: a quarter of the elements.
        self._payloads["int32"] = [words[: len(words) // 4] for words in self._payloads["int32"]]
        # Fewer than usual only in a hurry, as in tests.
        buckets = min(BUCKETS, max(2, int(seconds)))
        self._gradients = [torch.ones(BUCKET_BYTES // 4) for _ in range(buckets)]
        self._small_tensors = [torch.ones(SMALL_NUMEL) for _ in range(SMALL_TENSORS)]
        self._buckets = self._gradients[: max(2, self._numel * 4 // BUCKET_BYTES)]
        self._kernels = KernelPasses(torch.get_num_threads(), buckets)
        self._adding = SumPass()
        self._beside: list[tuple[float, int]] = []

    def rates(self) -> Rates:
        """Measure in rounds until the time is up, and put it together."""
        none, compressed = hvd.Compression.none, GlobalQSGD(bits=self._bits, min_numel=1)
        timed: dict[str, Callable[[], object]] = {
            "small": partial(self._reduce, [self._small], "small"),
            **{f"network {dtype}": partial(self._reduce, self._payloads[dtype], dtype) for dtype in DTYPES},
            "plain tensors": self._optimizer(none, "plain", self._small_tensors).synchronize,
            "compressed tensors": self._optimizer(compressed, "compressed", self._small_tensors).synchronize,
            "buckets": self._optimizer(compressed, "buckets", self._buckets).synchronize,
            "beside": self._network_and_kernels,
            "cast": self._cast,
            "sum": self._adding.run,
            **self._kernels.each(),
        }
        taken: dict[str, list[float]] = {name: [] for name in timed}
        rounds = 0
        while rounds <= LEAST_ROUNDS or (rounds <= MOST_ROUNDS and not self._late()):
            for name, function in timed.items():
                for _ in range(SMALL_REPEATS if name in QUICK else 1):
                    self._meet()
                    start = time.perf_counter()
                    function()
                    taken[name].append(time.perf_counter() - start)
            rounds += 1
        # The first round fills the response cache, agrees on buckets and touches memory.
        first = {name: len(values) // rounds for name, values in taken.items()}
        return self._together({name: values[first[name] :] for name, values in taken.items()})

    def _together(self, taken: dict[str, list[float]]) -> Rates:
        medians = {name: median(values) for name, values in taken.items()}
        spread = max(_spread(taken[f"network {dtype}"]) for dtype in DTYPES)
        agreed = self._slowest([*medians.values(), spread])
        seconds, spread = dict(zip(medians, agreed, strict=False)), agreed[-1]
        n, latency_s = self._ranks, seconds["small"]
        bandwidth, reduce = self._link(seconds)
        overlap = -self._slowest([-self._overlap(taken)])[0]
        rates = Rates(
            source="measured",
            ranks=n,
            latency_s=latency_s,
            hop_s=max(0.0, latency_s - CYCLE_S) / (SMALL_COLLECTIVES * 2 * math.log2(n)),
            bandwidth=bandwidth,
            reduce=reduce,
            cast=len(self._gradients) * BUCKET_BYTES / seconds["cast"],
            kernels=self._kernels.speeds(seconds),
            plain_tensor_s=max(0.0, seconds["plain tensors"] - latency_s) / SMALL_TENSORS,
            compressed_tensor_s=max(0.0, seconds["compressed tensors"] - 2 * latency_s) / SMALL_TENSORS,
            bucket_s=0.0,
            overlap=overlap,
            error=max(LEAST_ERROR, spread),
            threads=torch.get_num_threads(),
        )
        # Hiding nothing, a bucket waits for two operations of its own.
        numels = [gradient.numel() for gradient in self._buckets]
        further_s = seconds["buckets"] - aggregation_seconds(rates, Choice.of_bits(self._bits), numels)
        return replace(rates, bucket_s=min(max(0.0, further_s / (len(numels) - 1)), 2 * latency_s))

    def _link(self, seconds: dict[str, float]) -> tuple[float, dict[str, float]]:
        """Bandwidth and reduce speeds that give back the measured seconds of each payload among these ranks."""
        ring = (self._ranks - 1) / self._ranks
        per_byte = {
            dtype: max(seconds[f"network {dtype}"] - seconds["small"], 0.1 * seconds[f"network {dtype}"])
            / (ring * self._numel * size_bytes)
            for dtype, size_bytes in PAYLOADS.items()
        }
        fastest = min(per_byte.values())
        # Adding from caches is quicker than from memory: it cannot have been more than half of what was measured.
        adding = min(seconds["sum"] / self._adding.size_bytes, fastest / 2)
        link = fastest - adding
        return 2 / link, {dtype: 1 / (cost - link) for dtype, cost in per_byte.items()}

    def _overlap(self, taken: dict[str, list[float]]) -> float:
        """How much of the shorter hid behind the longer, of the network and as many kernels as ran beside it."""
        network = median(taken["network int32"])
        bucket = median(taken["encode 8"]) / self._kernels.buckets
        both = zip(taken["beside"], self._beside[1:], strict=True)
        hidden = [(network + bucket * passes - total) / min(network, bucket * passes) for total, (_, passes) in both]
        return min(1.0, max(0.0, median(hidden)))

    def _network_and_kernels(self) -> None:
        start = time.perf_counter()
        handles = self._start(self._payloads["int32"], "int32")
        passes = 0
        while not passes or not all(map(hvd.poll, handles)):
            self._kernels.encode_bucket(8, passes % self._kernels.buckets)
            passes += 1
        for handle in handles:
            hvd.synchronize(handle)
        self._beside.append((time.perf_counter() - start, passes))

    def _cast(self) -> None:
        """As Horovod's fp16 does: fresh memory for each tensor, there and back."""
        halves = [gradient.type(torch.float16) for gradient in self._gradients]
        for gradient, half in zip(self._gradients, halves, strict=True):
            gradient.set_(half.type(torch.float32))

    def _optimizer(self, compression: object, name: str, gradients: Sequence[torch.Tensor]) -> hvd.DistributedOptimizer:
        """An optimizer whose gradients are there: synchronize() submits and awaits all of them."""
        parameters = [torch.nn.Parameter(torch.empty_like(gradient)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        return hvd.DistributedOptimizer(
            torch.optim.SGD(parameters, lr=0.0),
            named_parameters=[(f"hvd_gqsgd.rates.{name}.{i}", p) for i, p in enumerate(parameters)],
            compression=compression,
            process_set=self._process_set,
        )

    def _affordable_numel(self, seconds: float) -> int:
        """Elements of a gradient that can be sent in ``PAYLOADS`` and once more in ``USUAL_ROUNDS`` of the time."""
        probe = torch.ones(LEAST_NUMEL)
        took = []
        for _ in range(3):
            self._meet()
            start = time.perf_counter()
            self._reduce([probe], "probe")
            took.append(time.perf_counter() - start)
        per_element = self._slowest([median(took[1:])])[0] / LEAST_NUMEL * (sum(PAYLOADS.values()) + 1) / 4
        affordable = max(LEAST_NUMEL, int(0.7 * seconds / USUAL_ROUNDS / per_element))
        return min(MOST_NUMEL, 1 << int(math.log2(affordable)))

    def _start(self, tensors: Sequence[torch.Tensor], name: str) -> list[int]:
        names = [f"hvd_gqsgd.rates.{name}.{index}" for index in range(len(tensors))]
        return [
            hvd.allreduce_async_(tensor, name=name, op=hvd.Sum, process_set=self._process_set)
            for tensor, name in zip(tensors, names, strict=True)
        ]

    def _reduce(self, tensors: Sequence[torch.Tensor], name: str) -> None:
        for handle in self._start(tensors, name):
            hvd.synchronize(handle)

    def _meet(self) -> None:
        self._reduce([torch.zeros(1)], "meet")

    def _late(self) -> bool:
        return self._slowest([time.perf_counter() - self._deadline])[0] > 0

    def _slowest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over the ranks: the same on all of them."""
        mine = torch.tensor(values, dtype=torch.float64)
        name = f"hvd_gqsgd.rates.slowest.{len(values)}"
        return hvd.allreduce(mine, name=name, op=hvd.Max, process_set=self._process_set).tolist()


def _spread(values: Sequence[float]) -> float:
    """Half of what lies between the quartiles, relative to the median."""
    low, middle, high = quantiles(values, n=4)
    return (high - low) / 2 / middle
