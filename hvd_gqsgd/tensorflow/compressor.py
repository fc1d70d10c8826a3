"""Compressors in Horovod's shape: ``compression=GlobalQSGD`` or ``compression=GlobalQSGD(bits=4)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from hvd_gqsgd import schemes
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.schemes.compressor import OnClassOrInstance
from hvd_gqsgd.tensorflow.engine import Context, engine
from hvd_gqsgd.tensorflow.state import CompressionState, state_of


class _Compressor(Scheme):
    """What Horovod and users ask of every compressor."""

    @OnClassOrInstance
    @tf.autograph.experimental.do_not_convert
    def compress(self: Scheme, tensor: Any) -> tuple[Any, Context]:
        """For Horovod: take ``tensor`` and return a one-element float32 tensor to reduce, with a context."""
        return engine.compress(self, tensor)

    @OnClassOrInstance
    @tf.autograph.experimental.do_not_convert
    def decompress(self: Scheme, tensor: Any, ctx: Context) -> Any:
        """For Horovod: the reduced tensor, in the dtype and shape of what was compressed."""
        return engine.decompress(tensor, ctx)

    @OnClassOrInstance
    def state(self: Scheme) -> CompressionState:
        """What is remembered from step to step: tf.train.Checkpoint(compression=GlobalQSGD.state()).

        Shared by equal settings. What is kept of tensors is each rank's own, so every rank writes a checkpoint of it.
        """
        return state_of(self)


@dataclass(frozen=True, kw_only=True)
class GlobalQSGD(_Compressor, schemes.GlobalQSGD):
    """Global-QSGD for horovod.tensorflow: unbiased quantised gradients that Horovod's own allreduce sums.

        tape = hvd.DistributedGradientTape(tape, compression=GlobalQSGD)
        opt = hvd.DistributedOptimizer(opt, compression=GlobalQSGD(bits=4))
        mean = hvd.allreduce(tensor, name="x", compression=GlobalQSGD)

    Settings (keyword only): bits=8, exchange="ring", levels="uniform", norm=(inf, inf), block_size=256,
    rotation="hadamard", dither="correlated", error_feedback=False, min_numel=1024, seed=0, as in
    ``schemes.GlobalQSGD``.

    Raises SettingsError for an unknown setting or a value out of range. On every rank alike: SettingsError for a world
    too large for ``bits`` and DisagreementError where ranks differ in settings or tensors, in eager mode; a graph that
    runs can only raise TensorFlow's own errors, so there it is tf.errors.InvalidArgumentError with the same words.
    While a function is traced: UnsupportedError for op Adasum, Min, Max, Product, for reducescatter, for a tensor
    without a static shape and for XLA.

    Source: Global-QSGD, arXiv 2305.18627, section 4, with one norm per block instead of one per bucket.
    """


@dataclass(frozen=True, kw_only=True)
class Marsit(_Compressor, schemes.Marsit):
    """Marsit for horovod.tensorflow: one bit per element, merged without bias, with global compensation.

        tape = hvd.DistributedGradientTape(tape, compression=Marsit)
        opt = hvd.DistributedOptimizer(opt, compression=Marsit)

    Settings (keyword only): sync_every=100, lr=None, min_numel=1024, seed=0, as in ``schemes.Marsit``; docs/marsit.md
    says what the size of a step means with an optimizer above it. Keeps 4 bytes per element on every rank.

    Raises as GlobalQSGD; UnsupportedError in a one-bit step once a rank has called hvd.join.

    Source: Marsit, arXiv 2204.06787.
    """


@dataclass(frozen=True, kw_only=True)
class DQSGD(_Compressor, schemes.DQSGD):
    """DQ-SGD for horovod.tensorflow: Global-QSGD whose width is chosen in every step, by the size of its gradient.

        tape = hvd.DistributedGradientTape(tape, compression=DQSGD)
        opt = hvd.DistributedOptimizer(opt, compression=DQSGD)

    Settings (keyword only): bits in the mean over the run, 4 and for four ranks and more what they need, or
    target_error; rule="nonconvex", alpha, steps, block_size=256, rotation="hadamard", dither="correlated",
    error_feedback=False, min_numel=1024, seed=0, as in ``schemes.DQSGD``. What it chose is ``bits`` of
    ``telemetry.StepReport``.

    Raises as GlobalQSGD.

    Source: DQ-SGD, arXiv 2107.14575.
    """


@dataclass(frozen=True, kw_only=True)
class GradiVeQ(_Compressor, schemes.GradiVeQ):
    """GradiVeQ for horovod.tensorflow: kernels of convolutions by their principal components, which sum.

        tape = hvd.DistributedGradientTape(tape, compression=GradiVeQ)
        opt = hvd.DistributedOptimizer(opt, compression=GradiVeQ)

    Settings (keyword only): then=GlobalQSGD(bits=8), sampling=GlobalQSGD(bits=8), ratio=8, loss=0.01, slice_numel=2048,
    centre=False, warm_up_steps=200, sample_steps=100, compress_steps=400, samples=512, refresh=None, as in
    ``schemes.GradiVeQ``.

    Raises as GlobalQSGD.

    Source: GradiVeQ, arXiv 1811.03617.
    """

    filters: ClassVar[str] = "last"
