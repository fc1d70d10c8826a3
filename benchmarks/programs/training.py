"""Whole training runs of one model with one optimizer: every compression, every seed, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch

from benchmarks import training_cells
from benchmarks.training_cells import Run
from benchmarks.workloads.small import Task
from benchmarks.workloads.small.base import draw_of, schedule_of
from hvd_gqsgd.schemes import Scheme
from hvd_gqsgd.torch import traffic


def run(options: dict[str, Any]) -> None:
    """json: a document, whose list "cells" gets each of options["cells"], as ``training_cells.run`` says."""
    torch.set_num_threads(1)
    training_cells.run(options["cells"], Path(options["json"]) if hvd.rank() == 0 else None, _train)


class _Counted:
    """One of Horovod's own compressors, with what it hands to Horovod in ``traffic``, as this package's count it."""

    def __init__(self, compression: Any) -> None:
        self._compression = compression

    def compress(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        sent, context = self._compression.compress(tensor)
        traffic.sent_bytes += sent.nbytes
        return sent, context

    def decompress(self, tensor: torch.Tensor, ctx: Any) -> torch.Tensor:
        return self._compression.decompress(tensor, ctx)


def _train(task: Task, optimizer_name: str, compression: Any, seed: int, steps: int) -> Run:
    traffic.reset()
    # The same on every rank: nothing has to be broadcast.
    torch.manual_seed(seed)
    model = task.model()
    optimizer = hvd.DistributedOptimizer(
        task.optimizer(optimizer_name, model.parameters()),
        named_parameters=model.named_parameters(),
        compression=compression if isinstance(compression, Scheme) else _Counted(compression),
    )
    schedule = schedule_of(optimizer, steps)
    draw = draw_of(seed, hvd.rank())
    losses = torch.empty(steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(draw))
        loss.backward()
        optimizer.step()
        schedule.step()
        losses[step] = loss.detach()
    sent_bytes = traffic.sent_bytes
    return Run(task.ends(model), hvd.allreduce(losses, name="losses").numpy(), sent_bytes)
