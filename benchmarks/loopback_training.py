"""A training of n workers in one process: one after the other on one model, their gradients in a loopback world.

A worker starts from the parameters of a rank of ``programs.training`` with the same seed and draws the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch
from torch import nn

from benchmarks.training_cells import Run
from benchmarks.workloads.small import Task
from benchmarks.workloads.small.base import draw_of, schedule_of
from hvd_gqsgd.schemes import Scheme, World
from hvd_gqsgd.torch.buffers import host_kernels, to_host
from hvd_gqsgd.torch.plan import Spec, groups_of
from hvd_gqsgd.torch.state import ExchangeState
from hvd_gqsgd.worlds import loopback

#: One worker's gradients, float32 (numel,), by the parameter's name.
Gradients = dict[str, torch.Tensor]
#: Overwrites the first worker's gradients with the mean over all workers; returns the bytes that a worker sent.
Average = Callable[[Sequence[Gradients]], int]


def train(task: Task, optimizer_name: str, compression: Any, seed: int, steps: int, *, workers: int) -> Run:
    torch.manual_seed(seed)
    model = task.model()
    optimizer = task.optimizer(optimizer_name, model.parameters())
    schedule = schedule_of(optimizer, steps)
    draws = [draw_of(seed, rank) for rank in range(workers)]
    average = average_by(compression, model, workers)
    losses = np.empty((steps, workers), np.float32)
    sent_bytes = 0
    for step in range(steps):
        everyones = []
        for rank, draw in enumerate(draws):
            loss = task.loss(model, task.batch(draw))
            everyones.append(_gradients(model, loss))
            losses[step, rank] = loss.detach()
        sent_bytes += average(everyones)
        for name, parameter in model.named_parameters():
            parameter.grad = everyones[0][name].view(parameter.shape)
        optimizer.step()
        schedule.step()
    return Run(task.ends(model), losses.mean(axis=1), sent_bytes)


def average_by(compression: Any, model: nn.Module, workers: int) -> Average:
    """What ``compression`` makes of the gradients of ``model``: one of Horovod's compressors, or any Scheme."""
    if not isinstance(compression, Scheme):
        return HorovodAverage(compression)
    # Nearly the order in which a backward pass has them ready, which is what the ranks of a real world agree on.
    specs = [Spec.of(name, parameter) for name, parameter in model.named_parameters()][::-1]
    return LoopbackAverage(compression, specs, workers)


class HorovodAverage:
    """The mean in the precision that one of Horovod's compressors casts to."""

    def __init__(self, compression: Any) -> None:
        self._compression = compression

    def __call__(self, everyones: Sequence[Gradients]) -> int:
        sent_bytes = 0
        for name, result in everyones[0].items():
            sent, context = self._compression.compress(result)
            sent_bytes += sent.nbytes
            for others in everyones[1:]:
                sent += self._compression.compress(others[name])[0]
            result.copy_(self._compression.decompress(sent.div_(len(everyones)), context))
        return sent_bytes


class LoopbackAverage:
    """The mean that a scheme makes, in the buckets of horovod.torch; all memories are each worker's own.

    states: what each worker remembers from step to step.
    """

    def __init__(self, scheme: Scheme, specs: Sequence[Spec], workers: int) -> None:
        scheme.check_world(workers)
        compressed = [spec for spec in specs if scheme.bits_of(spec.name, spec.shape) is not None]
        self.states = [ExchangeState() for _ in range(workers)]
        self._scheme = scheme
        self._worlds = [World(workers, rank) for rank in range(workers)]
        self._plain = [spec.name for spec in specs if spec not in compressed]
        self._loads = [[group.load() for group in groups_of(scheme, compressed)] for _ in range(workers)]
        for load in (load for loads in self._loads for load in loads):
            load.bucket.norms, load.bucket.words = np.asarray(load.bucket.norms), np.asarray(load.bucket.words)

    def __call__(self, everyones: Sequence[Gradients]) -> int:
        plain = [{name: own[name] for name in self._plain} for own in everyones]
        sent_bytes = HorovodAverage(hvd.Compression.none)(plain)
        scheme, kernels = self._scheme, host_kernels()
        for loads in zip(*self._loads, strict=True):
            for load, own, state in zip(loads, everyones, self.states, strict=True):
                load.bucket.tensors = [to_host(part.of(own[part.spec.name])) for part in load.parts]
                state.lend(load, scheme, lambda part: part.spec.name)
                load.bucket.residuals = [to_host(left) for left in load.bucket.residuals]
            ranks = zip(loads, self._worlds, strict=True)
            sent_bytes += loopback.run([scheme.collectives(load.bucket, kernels, world) for load, world in ranks])
            first = loads[0].bucket
            scheme.decode(first, kernels, self._worlds[0], first.tensors, scale=1.0)
        for state in self.states:
            state.step += 1
        return sent_bytes


def _gradients(model: nn.Module, loss: torch.Tensor) -> Gradients:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.contiguous().view(-1) for name, parameter in model.named_parameters()}
