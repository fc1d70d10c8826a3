"""A multilayer perceptron of 25 million parameters: little to compute, much to send."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import nn

from benchmarks.workloads.base import Batch, Workload
from benchmarks.workloads.digits import digits


class Perceptron(Workload):
    """64 -> 6 x 2048 -> 10 on the digits, batch 32 per rank."""

    name = "mlp"

    def model(self) -> nn.Module:
        widths = [64, *[2048] * 7]
        hidden = [part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.ReLU())]
        for layer in hidden[::2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return nn.Sequential(*hidden, nn.Linear(widths[-1], 10))

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    def batch(self, step: int, rank: int) -> Batch:
        return digits(32, step, rank)
