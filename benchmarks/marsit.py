"""What docs/marsit.md says was measured: where training ends, in one process, and how fast the kernels are.

python -m benchmarks.marsit train --task digits --ranks 8 --optimizer sgd --rates 0.1 0.03
python -m benchmarks.marsit kernels
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.workloads.small import TASKS
from benchmarks.workloads.small.base import Task, decayed
from benchmarks.workloads.small.digits import Digits
from hvd_gqsgd import kernels
from hvd_gqsgd.kernels import signs as sign_kernels
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.maths import signs
from hvd_gqsgd.schemes import Bucket, Marsit, World
from hvd_gqsgd.worlds import loopback


class Logistic(Digits):
    """Logistic regression on the same digits."""

    name = "logistic"

    def model(self) -> torch.nn.Module:
        """64 x 10 weights."""
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def optimizer_of(name: str, rate: float, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """SGD without and with momentum 0.9, Adam."""
    if name == "adam":
        return torch.optim.Adam(parameters, lr=rate)
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9 if name == "momentum" else 0)


class Ranks:
    """Marsit over virtual ranks that share one model, so each of them has a gradient of its own and one result."""

    def __init__(self, scheme: Marsit, shapes: list[torch.Size], size: int) -> None:
        self.scheme, self.size, self.kernels = scheme, size, kernels.select(threads=1)
        self.chosen = [i for i, shape in enumerate(shapes) if scheme.bits_of("", shape)]
        members = (Member(tensor_id=i, numel=shapes[i].numel(), dtype="float32", bits=1) for i in self.chosen)
        layout = Layout(members=tuple(members), **scheme.layout_settings())
        self.buckets = [Bucket.of_arrays(layout, 1, list(map(str, self.chosen))) for _ in range(size)]

    def allreduce(self, step: int, gradients: list[list[torch.Tensor]], means: list[torch.Tensor]) -> None:
        """Replace the ``means`` of what is compressed."""
        for bucket, own in zip(self.buckets, gradients, strict=True):
            bucket.step, bucket.tensors = step, [own[i].numpy().reshape(-1) for i in self.chosen]
        worlds = [World(self.size, rank) for rank in range(self.size)]
        pairs = zip(self.buckets, worlds, strict=True)
        loopback.run([self.scheme.collectives(bucket, self.kernels, world) for bucket, world in pairs])
        out = [means[i].view(-1).numpy() for i in self.chosen]
        self.scheme.decode(self.buckets[0], self.kernels, worlds[0], out, scale=1)


def train(
    task: Task, size: int, optimizer: str, rate: float, scheme: Marsit | None, steps: int, seed: int
) -> dict[str, float]:
    """The task's metrics after a run."""
    torch.manual_seed(seed)
    model = task.model()
    parameters = list(model.parameters())
    updates = optimizer_of(optimizer, rate, parameters)
    schedule = torch.optim.lr_scheduler.LambdaLR(updates, lambda step: decayed(step / steps))
    draws = [torch.Generator().manual_seed(1000 * seed + rank) for rank in range(size)]
    ranks = None if scheme is None else Ranks(scheme, [p.shape for p in parameters], size)
    for step in range(steps):
        gradients = []
        for draw in draws:
            loss = task.loss(model, task.batch(draw))
            gradients.append(list(torch.autograd.grad(loss, parameters)))
        means = [torch.stack(all_ranks).mean(dim=0) for all_ranks in zip(*gradients, strict=True)]
        if ranks is not None and ranks.chosen:
            ranks.allreduce(step, gradients, means)
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean
        updates.step()
        schedule.step()
    with torch.no_grad():
        return task.evaluate(model)


def run_training(options: argparse.Namespace) -> None:
    """One line of a table for each rate and schedule, means over seeds."""
    task = Logistic() if options.task == "logistic" else TASKS[options.task]
    least = 1 if options.task == "logistic" else 1024
    schemes: dict[str, Marsit | None] = {"none": None}
    for every in options.sync_every:
        number = None if every == "None" else int(every)
        for lr in options.lr:
            schemes[f"sync_every={every}, lr={lr}"] = Marsit(sync_every=number, lr=lr, min_numel=least)
    heads = [f"{task.name}, {options.ranks} ranks, {options.optimizer}", "rate", *(m.name for m in task.metrics)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for rate in options.rates:
        for label, scheme in schemes.items():
            runs = [
                train(task, options.ranks, options.optimizer, rate, scheme, options.steps, seed)
                for seed in range(options.seeds)
            ]
            cells = (f"{np.mean([run[metric.name] for run in runs]):.4f}" for metric in task.metrics)
            print(f"| {label} | {rate:g} | " + " | ".join(cells) + " |", flush=True)


def run_kernels(options: argparse.Namespace) -> None:
    """One thread, in turn with memcpy: GB/s of float32 gradient, of received words for merges."""
    ones = sign_kernels.beside(kernels.select(threads=1))
    draw, numel = np.random.default_rng(0), options.numel
    x, out = draw.standard_normal(numel, dtype=np.float32), np.zeros(numel, np.float32)
    compensation, words = np.zeros(numel, np.float32), np.zeros(signs.count_words(numel), np.int32)
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "memcpy": (x.nbytes, lambda: np.copyto(out, x)),
        "pack": (x.nbytes, lambda: ones.pack(x, compensation, words)),
        "compensate": (x.nbytes, lambda: ones.compensate(x, compensation, words, 0.1)),
        "expand": (x.nbytes, lambda: ones.expand(words, 0.1, out)),
    }
    for n in (2, 3, 8):
        rows = draw.integers(-(1 << 31), 1 << 31, (n, words.size // n)).astype(np.int32)
        merged, number = np.zeros(rows.shape[1], np.int32), {"seed": 0, "step": 0, "tensor_id": 0, "first_word": 0}
        work[f"merge n={n}"] = rows.nbytes, lambda r=rows, m=merged, k=number: ones.merge(r, m, **k)
    best = dict.fromkeys(work, float("inf"))
    for _ in range(options.rounds):
        for name, (_, function) in work.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    print(kernels.describe()["kernels"], f"{numel} elements")
    for name, (nbytes, _) in work.items():
        beside = best[name] / best["memcpy"]
        print(f"| {name} | {nbytes / best[name] / 1e9:.2f} GB/s | {beside:.2f} of memcpy's time for all elements |")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.set_defaults(run=run_training)
    training.add_argument("--task", choices=["logistic", *TASKS], default="digits")
    training.add_argument("--ranks", type=int, default=8)
    training.add_argument("--optimizer", choices=["sgd", "momentum", "adam"], default="momentum")
    training.add_argument("--rates", type=float, nargs="+", default=[0.1])
    training.add_argument("--sync-every", nargs="+", default=["10", "100", "None"])
    training.add_argument("--lr", type=lambda text: None if text == "None" else float(text), nargs="+", default=[None])
    training.add_argument("--steps", type=int, default=500)
    training.add_argument("--seeds", type=int, default=1)
    timing = commands.add_parser("kernels")
    timing.set_defaults(run=run_kernels)
    timing.add_argument("--numel", type=int, default=1 << 24)
    timing.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.run(options)


if __name__ == "__main__":
    main()
