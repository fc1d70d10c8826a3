"""What a benchmark needs to know about a model: how to build it, feed it and step it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import nn

Batch = tuple[torch.Tensor, torch.Tensor]


class Workload(ABC):
    """A model with its data and optimizer; the same on every rank but for the batches."""

    name: str

    def build(self) -> nn.Module:
        """A fresh model; always with the same parameters."""
        torch.manual_seed(0)
        return self.model()

    @abstractmethod
    def model(self) -> nn.Module:
        """A model with random parameters."""

    @abstractmethod
    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer that this kind of model is usually trained with."""

    @abstractmethod
    def batch(self, step: int, rank: int) -> Batch:
        """What ``rank`` trains on in ``step``: a function of both, the same for every contender."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross entropy over everything that the model predicts."""
        inputs, targets = batch
        scores = model(inputs)
        return nn.functional.cross_entropy(scores.flatten(0, -2), targets.flatten())
