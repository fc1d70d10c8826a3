"""Least squares, whose exact solution a factorisation finds."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from torch import nn

from benchmarks.workloads.small.base import Batch, Metric, Task

BATCH = 64
SAMPLES, INPUTS, OUTPUTS = 4096, 128, 32
#: Standard deviations of the inputs lie between this and 1.
NARROWEST = 0.3
#: Standard deviation of what no linear map explains, beside 1 of what one does.
NOISE = 0.5


@cache
def _data() -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (SAMPLES, INPUTS) and targets (SAMPLES, OUTPUTS)."""
    draw = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, torch.tensor(NARROWEST).log10().item(), INPUTS)
    inputs = spread * torch.randn(SAMPLES, INPUTS, generator=draw)
    truth = torch.randn(INPUTS, OUTPUTS, generator=draw) / spread.square().sum().sqrt()
    return inputs, inputs @ truth + NOISE * torch.randn(SAMPLES, OUTPUTS, generator=draw)


@cache
def _solution() -> tuple[torch.Tensor, float]:
    """The best weights (OUTPUTS, INPUTS) and their loss, in float64."""
    inputs, targets = (part.double() for part in _data())
    best = torch.linalg.lstsq(inputs, targets).solution
    return best.T, _loss(inputs @ best, targets).item()


def _loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().sum(dim=1).mean() / 2


class LeastSquares(Task):
    """128 inputs, 32 outputs, 4,096 parameters, one tensor; 64 samples per rank."""

    name = "linear"
    steps = 2000
    rates: ClassVar = {"sgd": 5e-3, "adam": 2e-3}
    metrics = (Metric("distance"), Metric("excess loss"), Metric("loss"))

    def model(self) -> nn.Module:
        return nn.Linear(INPUTS, OUTPUTS, bias=False)

    def batch(self, draw: torch.Generator) -> Batch:
        inputs, targets = _data()
        chosen = torch.randint(SAMPLES, (BATCH,), generator=draw)
        return inputs[chosen], targets[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        inputs, targets = batch
        return _loss(model(inputs), targets)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        best, least = _solution()
        weights = next(model.parameters()).double()
        inputs, targets = (part.double() for part in _data())
        loss = _loss(inputs @ weights.T, targets).item()
        distance = ((weights - best).norm() / best.norm()).item()
        return {"distance": distance, "excess loss": loss / least - 1, "loss": loss}

    def references(self) -> dict[str, float]:
        return {"loss of the solution": _solution()[1]}
