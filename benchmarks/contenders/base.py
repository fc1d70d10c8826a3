"""One model under training, and what is measured of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.workloads import Workload
from benchmarks.workloads.base import Batch


class Contender:
    """A model and its optimizer on this rank, with one way to bring gradients together.

    bare: the model itself; model and optimizer: what trains it, either of which may exchange the gradients.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.bare = workload.build()
        self.model: nn.Module = self.bare
        self.optimizer: Any = workload.optimizer(self.bare.parameters())

    def step(self, batch: Batch) -> float:
        """One training step; this rank's loss before it."""
        self.optimizer.zero_grad()
        loss = self.workload.loss(self.model, batch)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def reduced_gradient(self, batch: Batch) -> torch.Tensor:
        """The mean gradient as this contender sees it, flat and in float64; no parameter changes."""
        self.optimizer.zero_grad()
        self.workload.loss(self.model, batch).backward()
        self.wait()
        return torch.cat([p.grad.reshape(-1).double() for p in self.bare.parameters() if p.grad is not None])

    def wait(self) -> None:
        """Until every gradient is reduced; nothing to do where backward does that."""
        return
