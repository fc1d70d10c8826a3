"""Which Horovod operation is calling ``compress``: the one file that knows Horovod's insides.

Horovod hands a compressor a tensor and nothing else. Its callers hold the rest (the other gradients of the step, their
variables, op, process set) as local variables, so this file reads them from the calling frames. AutoGraph runs copies
of those functions, which keep the names of functions and variables, so frames are recognised by these. Nothing of
Horovod is patched. What can't be served (Adasum, reducescatter, XLA) is refused here too.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from types import CodeType, FrameType
from typing import Any

import horovod
import horovod.tensorflow as hvd
import tensorflow as tf

from hvd_gqsgd import compat
from hvd_gqsgd.errors import IncompatibleHorovodError, UnsupportedError
from hvd_gqsgd.tensorflow.names import labels_of

compat.check_horovod(horovod.__version__)

# AutoGraph puts some 25 frames of its own between compress and the function that has all gradients.
_MOST = 80
# From compress to Horovod's own function, and from there to its tf.cond: some of ours, and AutoGraph's branches.
_NEAR = 16


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of Horovod and everything that it reduces.

    operation: for messages. given: all that it reduces, as Horovod has it; tensors: the same as tensors, None where a
    variable has no gradient. names: one for each.
    shapes: as the variables have them, where there are variables. arguments: what Horovod was asked for, to be
    asked again for a gradient of the result (hvd.allreduce and hvd.grouped_allreduce only).
    """

    operation: str
    given: list[Any]
    tensors: list[Any]
    names: list[str]
    shapes: list[Any]
    process_set: hvd.ProcessSet
    arguments: dict[str, Any] | None

    @cached_property
    def labels(self) -> list[str]:
        """A name for each tensor, all different and the same on every rank."""
        return labels_of(self.names)


def caller(tensor: Any, compressor: str) -> Call:
    """The Horovod operation that compresses ``tensor``; UnsupportedError where it is none that can be served."""
    for frame in islice(_above(sys._getframe()), _NEAR):
        name = _name_of(frame)
        if name in _READERS and _READERS[name].variables <= frame.f_locals.keys():
            return _READERS[name].read(frame, tensor, compressor)
    raise UnsupportedError(
        f"{compressor}.compress() of a tensor of shape {tensor.shape}: expected a call from Horovod, got one from "
        f"elsewhere; write compression={compressor} in hvd.DistributedGradientTape, hvd.DistributedOptimizer, "
        "hvd.allreduce or hvd.grouped_allreduce"
    )


def _above(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames that called ``frame``, nearest first."""
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
        yield frame


def _name_of(frame: FrameType) -> str:
    return frame.f_code.co_name.removeprefix("tf__")


def _of_allreduce(frame: FrameType, tensor: Any, compressor: str) -> Call:
    """Of allreduce and grouped_allreduce."""
    seen, operation = frame.f_locals, _name_of(frame)
    gradients = _gradients_around(frame)
    if gradients is not None:
        return _of_gradients(gradients, seen["op"], compressor)
    return _direct(seen, [tensor] if operation == "allreduce" else _tensor_list(), operation, compressor)


def _tensor_list() -> list[Any]:
    """The nearest one: where AutoGraph makes a function of each branch, the outer ones know it as undefined."""
    lists = (frame.f_locals.get("tensor_list") for frame in _above(sys._getframe()))
    return next(value for value in lists if isinstance(value, list))


def _gradients_around(frame: FrameType) -> FrameType | None:
    """The frame of a tape or an optimizer that this allreduce belongs to; None for one that a user asked for."""
    condition = f"_{_name_of(frame)}_cond"
    wrapped = next((f for f in islice(_above(frame), _NEAR) if _name_of(f) == condition), None)
    found = (f for f in islice(_above(wrapped), _MOST) if _name_of(f) == "allreduce_grads")
    return next((f for f in found if f.f_locals.keys() >= _GRADIENTS), None)


def _of_gradients(frame: FrameType, op: Any, compressor: str) -> Call:
    seen = frame.f_locals
    gradients, variables = seen["grads"], seen["vars"]
    operation = seen.get("name") or "allreduce_grads"
    _check_op(op, operation, compressor)
    if variables is None:
        names = [f"gradient_{index}" for index in range(len(gradients))]
        shapes = [None if gradient is None else gradient.shape for gradient in gradients]
    else:
        names, shapes = [v.name for v in variables], [v.shape for v in variables]
    return Call(operation, gradients, gradients, names, shapes, seen["process_set"], None)


def _direct(seen: dict[str, Any], given: list[Any], operation: str, compressor: str) -> Call:
    name = seen["name"]
    _check_op(seen["op"], f"{operation} of {name!r}", compressor)
    names = [name or "noname"] if len(given) == 1 else [f"{name or 'noname'}.{i}" for i in range(len(given))]
    # Horovod takes NumPy's arrays as well.
    tensors = [tensor if tf.is_tensor(tensor) else tf.convert_to_tensor(tensor) for tensor in given]
    arguments = {key: seen[key] for key in _ASKED_AGAIN}
    shapes = [tensor.shape for tensor in tensors]
    return Call(f"{operation} of {name!r}", given, tensors, names, shapes, seen["process_set"], arguments)


def _of_reducescatter(frame: FrameType, tensor: Any, compressor: str) -> Call:
    raise UnsupportedError(
        f"{_name_of(frame)} of {frame.f_locals.get('name')!r} with compression={compressor}: quantised gradients are "
        "exchanged by allreduce; write compression=hvd.Compression.none here, or use hvd.allreduce"
    )


def _check_op(op: Any, operation: str, compressor: str) -> None:
    if op not in (None, hvd.Average, hvd.Sum):
        names = {hvd.Adasum: "Adasum", hvd.Min: "Min", hvd.Max: "Max", hvd.Product: "Product"}
        raise UnsupportedError(
            f"{operation} with op={names.get(op, op)} and compression={compressor}: expected op Average or Sum; "
            "write op=hvd.Average, or compression=hvd.Compression.none"
        )


def refuse_xla(operation: str, compressor: str) -> None:
    """Raise UnsupportedError while a function with jit_compile=True is traced: neither Horovod nor we run there."""
    for frame in _above(sys._getframe()):
        # TensorFlow's own frames alone: to read a user's local variables is to keep them alive until it returns.
        if frame.f_code.co_filename == _TRACED and getattr(frame.f_locals.get("self"), "_jit_compile", None):
            raise UnsupportedError(
                f"{operation} with compression={compressor}: expected a function that TensorFlow runs, got one that "
                "XLA compiles; write tf.function(jit_compile=False), or model.compile(..., jit_compile=False)"
            )


@dataclass(frozen=True)
class _Reader:
    read: Any
    variables: frozenset[str]


def _checked(function: Any, *variables: str) -> frozenset[str]:
    """``variables``, after a look that a Horovod function still has them."""
    code = getattr(function, "__code__", function)
    here = (*code.co_varnames, *code.co_cellvars, *code.co_freevars) if isinstance(code, CodeType) else ()
    missing = [v for v in variables if v not in here]
    if missing:
        raise IncompatibleHorovodError(
            f"horovod {horovod.__version__}: expected {function} to have the variables {missing}, which it has not; "
            f"install horovod=={compat.HOROVOD_TESTED}"
        )
    return frozenset(variables)


def _inner(function: Any, name: str) -> Any:
    """The code of the function ``name`` that is defined in ``function``, which may be wrapped."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    for code in (function.__code__, *(c.__code__ for c in cells if hasattr(c, "__code__"))):
        for constant in code.co_consts:
            if isinstance(constant, CodeType) and constant.co_name == name:
                return constant
    return None


_TRACED = inspect.unwrap(type(tf.function(lambda: None)).__call__).__code__.co_filename
_ASKED_AGAIN = ("op", "prescale_factor", "postscale_factor", "process_set")
_GRADIENTS = _checked(
    _inner(hvd._make_cached_allreduce_grads_fn, "allreduce_grads"), "grads", "vars", "process_set", "op"
)
_READERS = {
    "allreduce": _Reader(_of_allreduce, _checked(hvd.allreduce, "tensor", "compression", "name", *_ASKED_AGAIN)),
    "grouped_allreduce": _Reader(
        _of_allreduce, _checked(hvd.grouped_allreduce, "tensor_list", "compression", "name", *_ASKED_AGAIN)
    ),
    "reducescatter": _Reader(_of_reducescatter, _checked(hvd.reducescatter, "tensor", "compression")),
    "grouped_reducescatter": _Reader(_of_reducescatter, _checked(hvd.grouped_reducescatter, "tensors", "compression")),
}
_checked(hvd._allreduce_cond, "tensor", "process_set")
_checked(hvd._grouped_allreduce_cond, "tensors", "process_set")
