"""What a training run needs to know: the model, its batches, how it is trained, and how its end is judged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass

import torch
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]

#: Part of the steps over which the rate grows to its full height.
WARM_UP = 0.05


@dataclass(frozen=True)
class Metric:
    """A number that says how good a trained model is, not below zero."""

    name: str
    higher_is_better: bool = False


class Task(ABC):
    """A model, data that is on every machine, and rates that were tuned once, without compression.

    steps: of one run. rates: the highest learning rate, by the optimizer's name. metrics: what ``evaluate`` returns.
    """

    name: str
    steps: int
    rates: dict[str, float]
    metrics: tuple[Metric, ...]

    @abstractmethod
    def model(self) -> nn.Module:
        """A model with random parameters, from torch's own generator."""

    @abstractmethod
    def batch(self, draw: torch.Generator) -> Batch:
        """What one rank trains on in one step."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """What is minimised."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The metrics by name, over data that is the same for every run."""

    @abstractmethod
    def references(self) -> dict[str, float]:
        """What the metrics may be held against."""

    def ends(self, model: nn.Module) -> dict[str, float]:
        """``evaluate`` of a model that has been trained."""
        model.eval()
        with torch.no_grad():
            return self.evaluate(model)

    def at_rate(self, optimizer: str, rate: float) -> Task:
        """The same with another rate."""
        other = copy(self)
        other.rates = {**self.rates, optimizer: rate}
        return other

    def optimizer(self, name: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """SGD with momentum 0.9 or Adam, at the task's rate; names as in OPTIMIZERS."""
        if name == "adam":
            return torch.optim.Adam(parameters, lr=self.rates[name])
        return torch.optim.SGD(parameters, lr=self.rates[name], momentum=0.9)


OPTIMIZERS = ("sgd", "adam")


def decayed(progress: float) -> float:
    """Part of the full rate when ``progress`` of all steps are done: up in a line, then down to 0 in half a cosine.

    With a constant rate the noise of batches alone would keep every run, compressed or not, from its minimum.
    """
    if progress < WARM_UP:
        return progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def schedule_of(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """``decayed`` over a run of ``steps``."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: decayed((step + 1) / (steps + 1)))


def draw_of(seed: int, rank: int) -> torch.Generator:
    """What rank ``rank`` draws its batches from, in the run with this seed."""
    return torch.Generator().manual_seed(1_000_003 * seed + rank)
