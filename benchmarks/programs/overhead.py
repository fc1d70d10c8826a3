"""What each gradient costs in Python: CPU time of compress and decompress, without Horovod's calls and the kernels."""

from __future__ import annotations

import time
from typing import Any

import horovod.torch as hvd
import torch
from torch import nn

from benchmarks.programs.stopwatch import Stopwatch, label_everything
from hvd_gqsgd.torch import GlobalQSGD

STEPS = 20
WARM_UP = 3


def run(options: dict[str, Any]) -> dict[str, list[float]]:
    """tensors: numbers of parameters, measured one after the other. Returns seconds per gradient of each step."""
    torch.set_num_threads(1)
    watch = Stopwatch(time.thread_time)
    label_everything(watch)
    return {str(count): _measure(count, watch) for count in options["tensors"]}


def _measure(count: int, watch: Stopwatch) -> list[float]:
    model = nn.ParameterList([nn.Parameter(torch.zeros(1024)) for _ in range(count)])
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), model.named_parameters(), compression=GlobalQSGD
    )
    taken = []
    for _ in range(WARM_UP + STEPS):
        optimizer.zero_grad()
        watch.clear()
        torch.stack([p.sum() for p in model]).sum().backward()
        optimizer.step()
        taken.append(watch.seconds["python"] / count)
    return taken[WARM_UP:]
