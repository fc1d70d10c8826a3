"""What ``compress`` hands to ``decompress``: a tensor on its way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from hvd_gqsgd.torch.plan import Spec


class Awaiting(Protocol):
    """Whoever holds the exchange of a pending tensor."""

    def finish(self, pending: Pending, scale: float) -> torch.Tensor:
        """Wait for the exchange and decode; ``scale`` is what Horovod made of the probe."""


@dataclass(eq=False)
class Pending:
    """One tensor between ``compress`` and ``decompress``.

    flat: its elements, contiguous, kept until they are encoded. Hooks of later tensors may encode it.
    """

    owner: Awaiting
    spec: Spec
    flat: torch.Tensor = field(repr=False)


def flatten(tensor: torch.Tensor) -> torch.Tensor:
    """The elements in row-major order, outside of autograd: a view where the memory already is so."""
    return tensor.detach().contiguous().view(-1)
