"""One model under training, and what is measured of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn

from benchmarks.workloads import Workload
from benchmarks.workloads.base import Batch


class Contender(ABC):
    """A model and its optimizer on this rank, with one way to bring gradients together.

    aggregates: whether ``aggregate`` can be timed apart from forward and backward.
    """

    aggregates = False

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.bare = workload.build()
        self.model: nn.Module = self.bare

    @abstractmethod
    def update(self) -> None:
        """Finish the exchange where that is left to do, and update the parameters."""

    @abstractmethod
    def clear(self) -> None:
        """Forget the gradients."""

    def step(self, batch: Batch) -> float:
        """One training step; this rank's loss before it."""
        self.clear()
        loss = self.workload.loss(self.model, batch)
        loss.backward()
        self.update()
        return loss.item()

    def reduced_gradient(self, batch: Batch) -> torch.Tensor:
        """The mean gradient as this contender sees it, flat and in float64; no parameter changes."""
        self.clear()
        self.workload.loss(self.model, batch).backward()
        self.wait()
        return torch.cat([p.grad.reshape(-1).double() for p in self.bare.parameters() if p.grad is not None])

    def wait(self) -> None:
        """Until every gradient is reduced; nothing to do where backward does that."""
        return

    def aggregate(self) -> None:
        """Reduce the gradients of ``reduced_gradient`` once more: nothing but the exchange."""
        raise NotImplementedError(f"{type(self).__name__} exchanges within the backward pass only")
