"""Training without any exchange: what a step costs by itself."""

from __future__ import annotations

from benchmarks.contenders.base import Contender
from benchmarks.workloads import Workload


class Local(Contender):
    """Every rank by itself."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._optimizer = workload.optimizer(self.model.parameters())

    def clear(self) -> None:
        self._optimizer.zero_grad()

    def update(self) -> None:
        self._optimizer.step()
