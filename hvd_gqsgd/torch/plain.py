"""A tensor below min_numel, in a round before the ranks have agreed on their settings.

Afterwards such tensors go straight to Horovod. Until then a rank with another min_numel might send a probe for the
same tensor, and Horovod would find two shapes before anybody could say why.
"""

from __future__ import annotations

import horovod.torch as hvd
import torch

from hvd_gqsgd.torch.pending import Pending
from hvd_gqsgd.torch.traffic import traffic


class PlainExchange:
    """The sum of one tensor over ``contributors`` ranks, in float32 or float64."""

    def __init__(self, pending: Pending, process_set: hvd.ProcessSet, contributors: int) -> None:
        flat = pending.flat
        self._pending = pending
        self._contributors = contributors
        self._sum = flat.clone() if flat.dtype == torch.float64 else flat.float()
        self._handle: int | None = hvd.allreduce_async_(
            self._sum, name=f"hvd_gqsgd.{pending.spec.name}.plain", op=hvd.Sum, process_set=process_set
        )
        traffic.sent_bytes += self._sum.nbytes
        traffic.dense_bytes += flat.nbytes

    def wait(self) -> None:
        """Wait until the sum is complete."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            hvd.synchronize(handle)

    def decode(self, scale: float) -> None:
        """Write scale * mean into the tensor."""
        self.wait()
        self._pending.flat.copy_(self._sum * (scale / self._contributors))
