"""Compressors in Horovod's shape: ``compression=GlobalQSGD`` or ``compression=GlobalQSGD(bits=4)``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hvd_gqsgd import schemes
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.schemes.compressor import OnClassOrInstance
from hvd_gqsgd.torch.engine import Context, engine
from hvd_gqsgd.torch.state import states


def _eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, out of reach for torch.compile: it reads frames, keeps state and calls compiled code."""
    # Importing Dynamo takes seconds; who compiles has imported it.
    if "torch._dynamo" not in sys.modules:
        return function
    if function not in _DISABLED:
        _DISABLED[function] = torch.compiler.disable(function)
    return _DISABLED[function]


_DISABLED: dict[Callable[..., Any], Callable[..., Any]] = {}


class _Compressor(Scheme):
    """What Horovod and users ask of every compressor."""

    @OnClassOrInstance
    def compress(self: Scheme, tensor: torch.Tensor) -> tuple[torch.Tensor, Context]:
        """For Horovod: take ``tensor`` and return a one-element float32 tensor to reduce, with a context."""
        return _eager(engine.compress)(self, tensor)

    @OnClassOrInstance
    def decompress(self: Scheme, tensor: torch.Tensor, ctx: Context) -> torch.Tensor:
        """For Horovod: the reduced tensor, in the dtype, shape and device of what was compressed."""
        return _eager(engine.decompress)(tensor, ctx)

    @OnClassOrInstance
    def state_dict(self: Scheme) -> dict[str, Any]:
        """What exchanges with these settings remember on this rank: steps, and what is kept of each tensor.

        Tensors, numbers and strings, for torch.save; shared by equal settings.
        """
        return states.to_dict(self)

    @OnClassOrInstance
    def load_state_dict(self: Scheme, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, before or after the first step.

        Raises SettingsError for the state of other settings; on every rank, in the next step, for other parameters.
        """
        states.load(self, state_dict)


@dataclass(frozen=True, kw_only=True)
class GlobalQSGD(_Compressor, schemes.GlobalQSGD):
    """Global-QSGD for horovod.torch: unbiased quantised gradients that Horovod's own allreduce sums.

        opt = hvd.DistributedOptimizer(opt, named_parameters=model.named_parameters(), compression=GlobalQSGD)
        opt = hvd.DistributedOptimizer(opt, ..., compression=GlobalQSGD(bits=4))
        mean = hvd.allreduce(tensor, name="x", compression=GlobalQSGD)

    Settings (keyword only): bits=8, exchange="ring", levels="uniform", norm=(inf, inf), block_size=256,
    rotation="hadamard", dither="correlated", error_feedback=False, min_numel=1024, seed=0, as in
    ``schemes.GlobalQSGD``. Save ``state_dict()`` beside the optimizer's, on every rank its own, and a run that loads it
    goes on as if it had not stopped.

    Raises SettingsError for an unknown setting or a value out of range. While training, on every rank alike:
    SettingsError for a world too large for ``bits``, DisagreementError where ranks differ in settings or tensors
    or a parameter changed its shape, UnsupportedError for op Adasum, Min, Max, Product and for reducescatter, and for
    exchange="two_phase" once a rank has called hvd.join.

    Source: Global-QSGD, arXiv 2305.18627, section 4, with one norm per block instead of one per bucket.
    """


@dataclass(frozen=True, kw_only=True)
class Marsit(_Compressor, schemes.Marsit):
    """Marsit for horovod.torch: one bit per element, merged without bias, with global compensation.

        opt = hvd.DistributedOptimizer(opt, named_parameters=model.named_parameters(), compression=Marsit)

    Settings (keyword only): sync_every=100, lr=None, min_numel=1024, seed=0, as in ``schemes.Marsit``; docs/marsit.md
    says what the size of a step means with an optimizer above it. Keeps 4 bytes per element on every rank.

    Raises as GlobalQSGD; UnsupportedError in a one-bit step once a rank has called hvd.join.

    Source: Marsit, arXiv 2204.06787.
    """


@dataclass(frozen=True, kw_only=True)
class DQSGD(_Compressor, schemes.DQSGD):
    """DQ-SGD for horovod.torch: Global-QSGD whose width is chosen in every step, by the size of its gradient.

        opt = hvd.DistributedOptimizer(opt, named_parameters=model.named_parameters(), compression=DQSGD)

    Settings (keyword only): bits in the mean over the run, 4 and for four ranks and more what they need, or
    target_error; rule="nonconvex", alpha, steps, block_size=256, rotation="hadamard", dither="correlated",
    error_feedback=False, min_numel=1024, seed=0, as in ``schemes.DQSGD``. What it chose is ``bits`` of
    ``telemetry.StepReport``.

    Raises as GlobalQSGD.

    Source: DQ-SGD, arXiv 2107.14575.
    """


@dataclass(frozen=True, kw_only=True)
class GradiVeQ(_Compressor, schemes.GradiVeQ):
    """GradiVeQ for horovod.torch: kernels of convolutions by their principal components, which sum.

        opt = hvd.DistributedOptimizer(opt, named_parameters=model.named_parameters(), compression=GradiVeQ)

    Settings (keyword only): then=GlobalQSGD(bits=8), sampling=GlobalQSGD(bits=8), ratio=8, loss=0.01, slice_numel=2048,
    centre=False, warm_up_steps=200, sample_steps=100, compress_steps=400, samples=512, refresh=None, as in
    ``schemes.GradiVeQ``.

    Raises as GlobalQSGD.

    Source: GradiVeQ, arXiv 1811.03617.
    """
