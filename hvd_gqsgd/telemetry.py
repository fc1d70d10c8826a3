"""What compression did in each step, for callbacks and TensorBoard; costs nothing while nobody asks for it.

    from hvd_gqsgd import telemetry

    stop = telemetry.subscribe(print)
    telemetry.subscribe(telemetry.to_tensorboard(SummaryWriter("runs/0")))    # PyTorch's writer or TensorFlow's
    stop()

A callback gets a ``StepReport`` on every rank after each step of an optimizer and each compressed hvd.allreduce. In
TensorFlow, subscribe before a function is traced. Nothing is counted as clipped, because nothing is: a block's norm
is its largest magnitude on any rank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hvd_gqsgd.schemes.measure import Measured


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One exchange as this rank saw it.

    operation: "DistributedOptimizer", or what Horovod was asked for. step: number of the exchange, the dither's.
    relative_error: |decoded - exact mean| / |decoded|, estimated from norms, levels and a sample of the words, not
        measured: within a tenth or so, more where a level is larger than most elements. NaN where nothing is finite.
    sent_bytes, dense_bytes: handed to Horovod for what was compressed, and what it is uncompressed.
    blocks, nonfinite_blocks: norms, and those that are infinite because some rank had a NaN or an Inf there.
    bits: of the words that were sent per element, in the mean; norms come on top. NaN where it is not known.
    """

    operation: str
    step: int
    relative_error: float
    sent_bytes: int
    dense_bytes: int
    blocks: int
    nonfinite_blocks: int
    bits: float = math.nan

    @classmethod
    def of(cls, measured: Measured, **counts: Any) -> StepReport:
        squares = measured.squared_error, measured.squared_mean
        relative = math.sqrt(squares[0] / squares[1]) if squares[1] > 0 else (0.0 if measured.blocks else math.nan)
        if measured.blocks and measured.blocks == measured.nonfinite_blocks:
            relative = math.nan
        return cls(
            relative_error=relative,
            blocks=measured.blocks,
            nonfinite_blocks=measured.nonfinite_blocks,
            bits=measured.word_bits / measured.numel if measured.numel else math.nan,
            **counts,
        )


Callback = Callable[[StepReport], object]
_callbacks: list[Callback] = []


def subscribe(callback: Callback) -> Callable[[], None]:
    """Call ``callback`` with every report from now on; what is returned ends it.

    A callback that raises is warned about and not called again: on one rank alone, an error would stop all others.
    """
    _callbacks.append(callback)

    def stop() -> None:
        if callback in _callbacks:
            _callbacks.remove(callback)

    return stop


def active() -> bool:
    """Whether anybody wants reports."""
    return bool(_callbacks)


def publish(report: StepReport) -> None:
    """Hand ``report`` to every callback."""
    for callback in list(_callbacks):
        try:
            callback(report)
        except Exception as error:
            _callbacks.remove(callback)
            warnings.warn(
                f"hvd_gqsgd.telemetry: {callback!r} raised {error!r}; it is not called any more", stacklevel=2
            )


def to_tensorboard(writer: Any, prefix: str = "compression") -> Callback:
    """A callback that writes scalars with torch.utils.tensorboard.SummaryWriter or with tf.summary.create_file_writer.

    Tags are prefix/operation/name; the operation is left out for optimizers.
    """

    def write(report: StepReport) -> None:
        inner = "" if report.operation.startswith("Distributed") else f"/{report.operation}"
        ratio = report.dense_bytes / report.sent_bytes if report.sent_bytes else 1.0
        scalars = {
            "relative_error": report.relative_error,
            "sent_bytes": report.sent_bytes,
            "compression_ratio": ratio,
            "nonfinite_blocks": report.nonfinite_blocks,
        }
        if math.isfinite(report.bits):
            scalars["bits"] = report.bits
        for name, value in scalars.items():
            scalar(f"{prefix}{inner}/{name}", value, report.step)

    if hasattr(writer, "add_scalar"):
        scalar = writer.add_scalar
    else:
        import tensorflow as tf

        def scalar(tag: str, value: float, step: int) -> None:
            with writer.as_default():
                tf.summary.scalar(tag, value, step=step)

    return write
