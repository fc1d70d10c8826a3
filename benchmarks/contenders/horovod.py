"""Horovod's DistributedOptimizer with one of its own compressors or one of ours: the user's three lines."""

from __future__ import annotations

from typing import Any

import horovod.torch as hvd

from benchmarks.contenders.base import Contender
from benchmarks.workloads import Workload


class Horovod(Contender):
    """``compression`` is what the user writes."""

    def __init__(self, workload: Workload, compression: Any) -> None:
        super().__init__(workload)
        self.optimizer = hvd.DistributedOptimizer(
            self.optimizer, named_parameters=self.model.named_parameters(), compression=compression
        )

    def wait(self) -> None:
        self.optimizer.synchronize()

    def aggregate(self) -> None:
        """Reduce the gradients of ``reduced_gradient`` once more: nothing but the exchange."""
        # No hook has fired since the last time, so Horovod submits every gradient here, and waits for all.
        self.wait()
