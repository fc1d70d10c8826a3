"""What ``compress`` hands to ``decompress``: a tensor on its way."""

from __future__ import annotations

from typing import Protocol

import torch

from hvd_gqsgd.torch.plan import Spec


class Awaiting(Protocol):
    """Whoever holds the exchange of a pending tensor."""

    def finish(self, pending: Pending, scale: float) -> torch.Tensor:
        """Wait for the exchange and decode; ``scale`` is what Horovod made of the probe."""


class Pending:
    """One tensor between ``compress`` and ``decompress``.

    flat: its elements in row-major order, outside of autograd: its own memory where that already lies so. Hooks of
    later tensors may encode it.
    """

    # One is made for every gradient in every step.
    __slots__ = ("_tensor", "flat", "owner", "spec")

    def __init__(self, owner: Awaiting, spec: Spec, tensor: torch.Tensor) -> None:
        self.owner = owner
        self.spec = spec
        if tensor.is_contiguous() and not tensor.requires_grad:
            self._tensor: torch.Tensor | None = tensor
            self.flat = tensor.view(-1)
        else:
            self._tensor = None
            self.flat = tensor.detach().contiguous().view(-1)

    def result(self) -> torch.Tensor:
        """The tensor in its own shape, after ``flat`` was written to: the very same object where that is possible."""
        return self.flat.view(self.spec.shape) if self._tensor is None else self._tensor
