"""Which Horovod operation is calling ``compress``: the one file that knows Horovod's insides.

Horovod hands a compressor a tensor and nothing else. Its callers hold the rest (name, op, scale factors, process
set, optimizer) as local variables, so this file reads them from the calling frame. Frames are recognised by file and
line. Nothing of Horovod is patched. What can't be served (Adasum, reducescatter) is refused here too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import horovod
import horovod.torch as hvd
import torch
from horovod.torch import mpi_ops
from horovod.torch.optimizer import _DistributedAdasumOptimizer, _DistributedOptimizer

from hvd_gqsgd import compat
from hvd_gqsgd.errors import IncompatibleHorovodError, UnsupportedError

compat.check_horovod(horovod.__version__)

# From here to Horovod's own frame: this package's, a comprehension's, and a few of a compressor that wraps ours.
MOST_FRAMES = 10


@dataclass(slots=True)
class Call:
    """One call of ``compress`` and the operation that it belongs to.

    optimizer: the DistributedOptimizer, or None for hvd.allreduce and hvd.grouped_allreduce.
    name: the parameter's or operation's name; None where the user gave none.
    first: Horovod holds no other tensor of this step (optimizers only).
    arguments: what Horovod was asked for, to be asked again in a backward pass (direct calls only).
    """

    optimizer: Any
    name: str | None
    process_set: hvd.ProcessSet
    first: bool
    arguments: dict[str, Any]


def caller(tensor: torch.Tensor, compressor: str) -> Call:
    """The Horovod operation that compresses ``tensor``; UnsupportedError where it is none that can be served."""
    inner = sys._getframe(0)
    for _ in range(MOST_FRAMES):
        frame = inner.f_back
        if frame is None:
            break
        # The line first: it is a small integer, and few functions of the world begin at one of Horovod's.
        if frame.f_code.co_firstlineno in _LINES:
            read = _READERS.get(_place(frame.f_code))
            if read is not None:
                return read(frame, inner, compressor)
        inner = frame
    raise UnsupportedError(
        f"{compressor}.compress() of a tensor of shape {tuple(tensor.shape)}: expected a call from Horovod, got one "
        f"from elsewhere; write compression={compressor} in hvd.DistributedOptimizer, hvd.allreduce or "
        f"hvd.grouped_allreduce (a compressor that wraps it may be {MOST_FRAMES - 4} calls away)"
    )


def generation() -> object:
    """An object that lives as long as one ``hvd.init()``: ranks, sizes and handles mean nothing past it."""
    return mpi_ops._handle_map


def _of_optimizer(frame: FrameType, inner: FrameType, compressor: str) -> Call:
    seen = frame.f_locals
    return _optimizer_call(seen["self"], seen["p"], compressor)


def _of_optimizer_group(frame: FrameType, inner: FrameType, compressor: str) -> Call:
    # The comprehension that holds p has a frame of its own up to Python 3.11.
    comprehension = inner if inner.f_code.co_name == "<listcomp>" else frame
    return _optimizer_call(frame.f_locals["self"], comprehension.f_locals["p"], compressor)


def _optimizer_call(optimizer: Any, parameter: torch.Tensor, compressor: str) -> Call:
    name = optimizer._parameter_names.get(parameter)
    if optimizer.op not in _SUMS:
        raise _unsupported_op(optimizer.op, f"DistributedOptimizer, parameter {name!r}", compressor)
    return Call(optimizer, name, optimizer.process_set, not optimizer._handles, {})


def _of_allreduce(frame: FrameType, inner: FrameType, compressor: str) -> Call:
    seen = frame.f_locals
    name = seen["name"]
    if seen["op"] not in _SUMS:
        raise _unsupported_op(seen["op"], f"{frame.f_code.co_name} of {name!r}", compressor)
    return Call(None, name, seen["process_set"], False, {key: seen[key] for key in _ASKED_AGAIN})


def _of_adasum(frame: FrameType, inner: FrameType, compressor: str) -> Call:
    raise _unsupported_op(hvd.Adasum, "DistributedOptimizer", compressor)


def _of_reducescatter(frame: FrameType, inner: FrameType, compressor: str) -> Call:
    raise UnsupportedError(
        f"{frame.f_code.co_name} of {frame.f_locals['name']!r} with compression={compressor}: quantised gradients are "
        "exchanged by allreduce; write compression=hvd.Compression.none here, or use hvd.allreduce"
    )


def _unsupported_op(op: Any, operation: str, compressor: str) -> UnsupportedError:
    names = {hvd.Adasum: "Adasum", hvd.Min: "Min", hvd.Max: "Max", hvd.Product: "Product"}
    return UnsupportedError(
        f"{operation} with op={names.get(op, op)} and compression={compressor}: expected op Average or Sum; "
        "write op=hvd.Average, or compression=hvd.Compression.none"
    )


def _place(code: CodeType) -> tuple[str, int]:
    # Not the code object itself: torch.compile runs copies.
    return code.co_filename, code.co_firstlineno


def _checked(function: Any, *variables: str) -> tuple[str, int]:
    """The place of a Horovod function, after a look that it still has the variables that are read above."""
    code = getattr(function, "__code__", None)
    here = (*code.co_varnames, *code.co_cellvars) if isinstance(code, CodeType) else ()
    missing = [v for v in variables if v not in here]
    if missing or not isinstance(code, CodeType):
        raise IncompatibleHorovodError(
            f"horovod {horovod.__version__}: expected {function} to have the local variables {missing}, which it "
            f"has not; install horovod=={compat.HOROVOD_TESTED}"
        )
    return _place(code)


_SUMS = (None, hvd.Average, hvd.Sum)
_ASKED_AGAIN = ("average", "op", "prescale_factor", "postscale_factor", "process_set")
_READERS = {
    _checked(_DistributedOptimizer._allreduce_grad_async, "self", "p"): _of_optimizer,
    _checked(_DistributedOptimizer._grouped_allreduce_grad_async, "self", "ps"): _of_optimizer_group,
    _checked(_DistributedAdasumOptimizer._allreduce_grad_async, "self", "p"): _of_adasum,
    _checked(mpi_ops.allreduce, "tensor", "name", *_ASKED_AGAIN): _of_allreduce,
    _checked(mpi_ops.grouped_allreduce, "tensors", "name", *_ASKED_AGAIN): _of_allreduce,
    _checked(mpi_ops.reducescatter, "name"): _of_reducescatter,
    _checked(mpi_ops.grouped_reducescatter, "name"): _of_reducescatter,
}
_LINES = {line for _, line in _READERS}
