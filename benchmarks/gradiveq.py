"""What GradiVeQ loses and sends: ``python -m benchmarks.gradiveq train`` and ``... loss``.

A small convolutional net on scikit-learn's digits, its n ranks in one process (``worlds.loopback``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from statistics import mean, pstdev
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.workloads.small.base import decayed
from benchmarks.workloads.small.digits import Digits
from hvd_gqsgd import kernels
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.maths import principal
from hvd_gqsgd.schemes import Bucket, GlobalQSGD, GradiVeQ, Scheme, World
from hvd_gqsgd.schemes.agreement import tensor_id
from hvd_gqsgd.schemes.subspaces import Slicing
from hvd_gqsgd.worlds import loopback

#: One part of sampling for four of use, as the paper has it; two rounds of both in a run.
PHASES = {"warm_up_steps": 40, "sample_steps": 28, "compress_steps": 112}
FOUR_BITS = GlobalQSGD(bits=4, exchange="two_phase")
COMPRESSIONS: dict[str, Scheme | None] = {
    "none": None,
    "8 bits": GlobalQSGD(bits=8),
    "4 bits, two phases": FOUR_BITS,
    "GradiVeQ": GradiVeQ(**PHASES),
    "ratio=16": GradiVeQ(ratio=16, **PHASES),
    "ratio=32": GradiVeQ(ratio=32, **PHASES),
    "ratio=64": GradiVeQ(ratio=64, **PHASES),
    "refresh=0.5": GradiVeQ(refresh=0.5, **PHASES),
    "refresh=0.8": GradiVeQ(refresh=0.8, **PHASES),
    "slice_numel=768": GradiVeQ(slice_numel=768, **PHASES),
    "sampling in 4 bits": GradiVeQ(sampling=FOUR_BITS, **PHASES),
    "sample=14": GradiVeQ(**{**PHASES, "sample_steps": 14, "compress_steps": 126}),
    "centre=True": GradiVeQ(centre=True, **PHASES),
    "then=None": GradiVeQ(then=None, **PHASES),
}
#: Steps whose means are sampled and those, after them, for which the loss is taken.
SAMPLED, JUDGED = range(40, 68), range(68, 180)


class Convolutions(Digits):
    """Four convolutions with batch normalisation, 130,000 parameters, 99 % of them in kernels."""

    steps = 320

    def model(self) -> nn.Module:
        def layer(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        layers = [*layer(1, 32), nn.MaxPool2d(2), *layer(32, 64), nn.MaxPool2d(2), *layer(64, 64), *layer(64, 128)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class Ended(NamedTuple):
    """A run: the task's metrics, what it sent per step, a rank's milliseconds per step, and K, d of every basis."""

    metrics: dict[str, float]
    sent_bytes: float
    milliseconds: float
    bases: dict[str, list[tuple[int, int]]]


class Ranks:
    """n ranks that train one model."""

    def __init__(self, n: int, seed: int, steps: int) -> None:
        torch.manual_seed(seed)
        self.task, self.n, self.steps = Convolutions(), n, steps
        self.model = self.task.model()
        self.named = dict(self.model.named_parameters())
        self.optimizer = self.task.optimizer("sgd", self.named.values())
        self.draws = [torch.Generator().manual_seed(1000 * seed + rank) for rank in range(n)]

    def gradients(self) -> list[dict[str, np.ndarray]]:
        """Of every rank, flat, by the parameter's name."""
        every = []
        for draw in self.draws:
            self.model.zero_grad()
            self.task.loss(self.model, self.task.batch(draw)).backward()
            every.append({name: p.grad.numpy().reshape(-1).copy() for name, p in self.named.items()})
        return every

    def update(self, step: int, means: dict[str, np.ndarray]) -> None:
        for name, p in self.named.items():
            p.grad = torch.from_numpy(means[name].astype(np.float32).reshape(p.shape))
        for group in self.optimizer.param_groups:
            group["lr"] = self.task.rates["sgd"] * decayed(step / self.steps)
        self.optimizer.step()


def _buckets(scheme: Scheme, ranks: Ranks) -> tuple[list[str], list[Bucket]]:
    """Names of what ``scheme`` sends, in one bucket per rank."""
    shapes = {name: tuple(p.shape) for name, p in ranks.named.items()}
    bits = {name: scheme.bits_of(name, shape) for name, shape in shapes.items()}
    names = tuple(name for name in shapes if bits[name] is not None)
    members = (
        Member(tensor_id=tensor_id(name), numel=ranks.named[name].numel(), dtype="float32", bits=bits[name])
        for name in names
    )
    layout = Layout(members=tuple(members), **scheme.layout_settings())
    sent_shapes = tuple(shapes[name] for name in names)
    return list(names), [Bucket.of_arrays(layout, 1, names, shapes=sent_shapes) for _ in range(ranks.n)]


def train(scheme: Scheme | None, n: int, seed: int, steps: int) -> Ended:
    ranks, compiled = Ranks(n, seed, steps), kernels.select()
    names, buckets = _buckets(scheme, ranks) if scheme else ([], [])
    dense = sum(4 * p.numel() for name, p in ranks.named.items() if name not in names)
    sent_bytes, seconds, bases = steps * dense, 0.0, {}
    for step in range(steps):
        every = ranks.gradients()
        means = {name: np.mean([g[name] for g in every], axis=0) for name in ranks.named}
        started = time.perf_counter()
        for bucket, gradients in zip(buckets, every, strict=False):
            bucket.tensors, bucket.step = [gradients[name] for name in names], step
        if scheme is not None:
            sent_bytes += loopback.run([scheme.collectives(b, compiled, World(n, r)) for r, b in enumerate(buckets)])
            for rank, bucket in enumerate(buckets):
                scheme.decode(bucket, compiled, World(n, rank), [means[name] for name in names], scale=1.0)
            for name, memory in zip(names, buckets[0].memory, strict=True):
                seen = bases.setdefault(name, [])
                if "basis" in memory and memory["basis"].shape not in seen[-1:]:
                    seen.append(memory["basis"].shape)
        seconds += (time.perf_counter() - started) / n
        ranks.update(step, means)
    with torch.no_grad():
        metrics = ranks.task.evaluate(ranks.model)
    return Ended(metrics, sent_bytes / steps, 1e3 * seconds / steps, bases)


def losses(n: int, steps: int) -> Iterator[str]:
    """Rows of a table: part of the means' square that each kernel's basis misses, plain and with ``centre``."""
    ranks, recorded = Ranks(n, 0, steps), []
    for step in range(JUDGED.stop):
        every = ranks.gradients()
        recorded.append({name: np.mean([g[name] for g in every], axis=0) for name in ranks.named})
        ranks.update(step, recorded[-1])
    for name, p in ranks.named.items():
        cuts = {
            GradiVeQ(slice_numel=slice_numel, ratio=ratio, **PHASES).slicing_of(name, tuple(p.shape))
            for slice_numel in (256, 512, 1024, 2048, 4096)
            for ratio in (4, 8, 16, 32)
        }
        for cut in sorted(filter(None, cuts), key=lambda cut: (cut.numel, -cut.most)):
            columns = [_loss(cut, [r[name] for r in recorded], centre) for centre in (False, True)]
            said = " | ".join(f"{d} | {lost:.2f}" for d, lost in columns)
            yield f"| {name} {tuple(p.shape)} | {cut.numel} | {said} |"


def _loss(cut: Slicing, recorded: list[np.ndarray], centre: bool) -> tuple[int, float]:
    """Columns of the basis, and what it misses of the steps that are judged, in all of them together."""
    slices = [principal.to_slices(mean, cut.shape, cut.filters, cut.numel) for mean in recorded]
    chosen = [(np.arange(cut.sampled) * cut.count // cut.sampled + s) % cut.count for s in SAMPLED]
    samples = np.concatenate([slices[s][c] for s, c in zip(SAMPLED, chosen, strict=True)])
    mu, basis = principal.components(samples, GradiVeQ().loss, cut.most, centre)
    squares = [float(np.vdot(slices[s], slices[s])) for s in JUDGED]
    missed = [principal.project(slices[s], mu, basis)[1] * square for s, square in zip(JUDGED, squares, strict=True)]
    return basis.shape[1], sum(missed) / sum(squares)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradiveq", description=__doc__)
    parser.add_argument("what", choices=("train", "loss"))
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Convolutions.steps)
    parser.add_argument("--compressions", nargs="+", choices=COMPRESSIONS, default=list(COMPRESSIONS), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "loss":
        print("| kernel | K | d | loss | d, centred | loss, centred |\n|---|---|---|---|---|---|")
        for row in losses(arguments.n, arguments.steps):
            print(row, flush=True)
        return
    print("| compression | test accuracy | train loss | bytes per step | ms |\n|---|---|---|---|---|")
    for name in arguments.compressions:
        ended = [train(COMPRESSIONS[name], arguments.n, s, arguments.steps) for s in range(arguments.seeds)]
        accuracies = [run.metrics["test accuracy"] for run in ended]
        print(
            f"| {name} | {mean(accuracies):.4f} +- {pstdev(accuracies):.4f} "
            f"| {mean(run.metrics['train loss'] for run in ended):.1e} "
            f"| {mean(run.sent_bytes for run in ended):,.0f} | {mean(run.milliseconds for run in ended):.1f} |",
            flush=True,
        )
        for tensor, shapes in ended[0].bases.items():
            if shapes:
                print(f"  {tensor}: (K, d) = {', '.join(map(str, shapes))}", flush=True)


if __name__ == "__main__":
    main()
