"""DQSGD beside fixed bits, in a loopback world: ``python -m benchmarks.dynamic_bits --task digits -n 2``.

No Horovod: n virtual ranks in one process, each with batches of its own, share one model and its mean gradient.
Prints a line for each run: bits of words per element, sum over steps of |decoded - mean|^2, and how the model ends.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.workloads.small import TASKS, Task
from benchmarks.workloads.small.base import decayed
from hvd_gqsgd.kernels.compiled import CompiledKernels
from hvd_gqsgd.kernels.layout import WORDS_HEADER, Layout, Member
from hvd_gqsgd.schemes import DQSGD, Bucket, GlobalQSGD, Scheme, World
from hvd_gqsgd.worlds import loopback

KERNELS = CompiledKernels(threads=1)
#: Fixed widths that are compared with: those of 2 and of 8 ranks.
FIXED = {2: (3, 4, 5), 8: (6, 8)}


def buckets_of(scheme: Scheme, numels: Sequence[int], n: int) -> list[Bucket]:
    """One bucket of all tensors for each rank."""
    names = tuple(f"t{index}" for index in range(len(numels)))
    members = tuple(
        Member(tensor_id=index, numel=numel, dtype="float32", bits=scheme.bits_of(name, (numel,)) or 32)
        for index, (name, numel) in enumerate(zip(names, numels, strict=True))
    )
    layout = Layout(members=members, **scheme.layout_settings())
    return [Bucket.of_arrays(layout, 1, names) for _ in range(n)]


#: Relative errors of the first step that are asked for.
TARGETS = (0.5, 0.2, 0.1)


class Exchange:
    """Mean gradients by a scheme, and what they cost. Tensors that are too small for it are averaged exactly."""

    def __init__(self, scheme: Scheme, numels: Sequence[int], n: int) -> None:
        self.scheme, self.n, self.numels = scheme, n, numels
        self.chosen = [i for i, numel in enumerate(numels) if scheme.bits_of(f"t{i}", (numel,)) is not None]
        self.buckets = buckets_of(scheme, [numels[i] for i in self.chosen], n)
        self.bits: list[float] = []
        self.squared_error = 0.0

    def mean(self, gradients: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """gradients: by rank and tensor, flat."""
        exact = [np.mean(each, axis=0, dtype=np.float64) for each in zip(*gradients, strict=True)]
        for bucket, own in zip(self.buckets, gradients, strict=True):
            bucket.tensors = [own[i] for i in self.chosen]
        worlds = [World(self.n, rank) for rank in range(self.n)]
        loopback.run([self.scheme.collectives(b, KERNELS, w) for b, w in zip(self.buckets, worlds, strict=True)])
        decoded = [np.empty(self.numels[i], np.float32) for i in self.chosen]
        self.scheme.decode(self.buckets[0], KERNELS, worlds[0], decoded, scale=1.0)
        result = [e.astype(np.float32) for e in exact]
        for i, out in zip(self.chosen, decoded, strict=True):
            self.squared_error += float(np.sum((out - exact[i]) ** 2))
            result[i] = out
        measured = self.scheme.measure(self.buckets[0], worlds[0])
        self.bits.append(measured.word_bits / measured.numel)
        for bucket in self.buckets:
            bucket.step += 1
        return result


def train(task: Task, scheme: Scheme, n: int, seed: int) -> tuple[dict[str, float], Exchange]:
    """SGD with momentum at the task's rate; the metrics at the end."""
    torch.manual_seed(seed)
    model = task.model()
    parameters = list(model.parameters())
    optimizer, rate = task.optimizer("sgd", parameters), task.rates["sgd"]
    draws = [torch.Generator().manual_seed(1000 * seed + rank) for rank in range(n)]
    exchange = Exchange(scheme, [p.numel() for p in parameters], n)
    for step in range(task.steps):
        optimizer.param_groups[0]["lr"] = rate * decayed(step / task.steps)
        gradients = []
        for draw in draws:
            loss = task.loss(model, task.batch(draw))
            gradients.append([g.reshape(-1).numpy() for g in torch.autograd.grad(loss, parameters)])
        for parameter, mean in zip(parameters, exchange.mean(gradients), strict=True):
            parameter.grad = torch.from_numpy(mean).reshape(parameter.shape)
        optimizer.step()
    with torch.no_grad():
        return task.evaluate(model), exchange


def synthetic(
    scheme: Scheme, n: int, seed: int, steps: int = 200, falling: float = 3.0, scatter: float = 0.5
) -> Exchange:
    """Gaussian gradients that fall by ``falling`` orders of magnitude, and scatter by ``scatter`` powers of two."""
    draw = np.random.default_rng(seed)
    exchange = Exchange(scheme, [4096], n)
    for step in range(steps):
        size = np.float32(10 ** (-falling * step / steps) * 2 ** draw.normal(0, scatter))
        exchange.mean([[size * draw.standard_normal(4096, np.float32)] for _ in range(n)])
    return exchange


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=[*TASKS, "synthetic"], default="digits")
    parser.add_argument("-n", type=int, choices=list(FIXED), default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, nargs="*", help="of the schemes, by their place among those printed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    n = arguments.n
    steps = 200 if arguments.task == "synthetic" else TASKS[arguments.task].steps
    schemes: list[Scheme] = []
    for bits in FIXED[n]:
        layout = buckets_of(GlobalQSGD(bits=bits), [1 << 16], n)[0].layout
        wire = 32 * (layout.words_numel - WORDS_HEADER) / (1 << 16)
        schemes += [GlobalQSGD(bits=bits), DQSGD(bits=wire), DQSGD(bits=wire, steps=steps)]
    schemes += [DQSGD(target_error=error) for error in TARGETS]
    if arguments.only is not None:
        schemes = [schemes[index] for index in arguments.only]
    for scheme, seed in itertools.product(schemes, range(arguments.seeds)):
        if arguments.task == "synthetic":
            metrics, exchange = {}, synthetic(scheme, n, seed, steps)
        else:
            metrics, exchange = train(TASKS[arguments.task], scheme, n, seed)
        ends = "".join(f"  {key} {value:.5g}" for key, value in metrics.items())
        print(
            f"{arguments.task} n={n} {_short(scheme):30} seed {seed}  {np.mean(exchange.bits):.3f} bits  "
            f"error {exchange.squared_error:.4g}{ends}",
            flush=True,
        )


def _short(scheme: Scheme) -> str:
    told = {name: getattr(scheme, name, None) for name in ("bits", "steps", "target_error")}
    return f"{type(scheme).__name__}({', '.join(f'{k}={v:.4g}' for k, v in told.items() if v is not None)})"


if __name__ == "__main__":
    main()
