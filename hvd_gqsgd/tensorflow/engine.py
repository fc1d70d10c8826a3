"""Routes each tensor that Horovod asks to compress, and keeps the exchange that its siblings are in."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from threading import local
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import horovod.tensorflow as hvd
import tensorflow as tf

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.schemes.agreement import digest
from hvd_gqsgd.schemes.base import Scheme, World
from hvd_gqsgd.tensorflow import calls
from hvd_gqsgd.tensorflow.calls import Call
from hvd_gqsgd.tensorflow.exchange import Exchange
from hvd_gqsgd.tensorflow.host import HostExchange
from hvd_gqsgd.tensorflow.plan import is_ours


@dataclass(frozen=True, eq=False)
class Pending:
    """A tensor whose result an exchange has."""

    exchange: Exchange
    index: int
    tensor: Any
    scheme: Scheme
    call: Call


@dataclass
class _Open:
    """An exchange that Horovod has still to ask for the tensors with numbers ``missing``."""

    scheme: Scheme
    given: list[Any]
    exchange: Exchange
    missing: list[int]


#: None: Horovod's result is the result. A dtype: cast Horovod's result. Pending: an exchange has it.
Context: TypeAlias = "tf.DType | Pending | None"


class Engine:
    """Finds or makes the exchange of each tensor."""

    def __init__(self) -> None:
        self._thread = local()
        self._names = _Names()

    def compress(self, scheme: Scheme, tensor: Any) -> tuple[Any, Context]:
        """What Horovod is to reduce in place of ``tensor``, and the context for ``decompress``."""
        compressor = type(scheme).__name__
        call = calls.caller(tensor, compressor)
        given = tensor
        if not tf.is_tensor(tensor):
            tensor = tf.convert_to_tensor(tensor)
        if not is_ours(tensor) or not (_elastic() or _shared(call.process_set)):
            # Horovod has no bfloat16 reduction, and asks for one in the graph even where it is never run.
            return (tf.cast(tensor, tf.float32), tensor.dtype) if tensor.dtype == tf.bfloat16 else (tensor, None)
        exchange, index = self._exchange(scheme, call, given, compressor)
        return exchange.send(index), Pending(exchange, index, tensor, scheme, call)

    def decompress(self, reduced: Any, context: Context) -> Any:
        """The tensor that Horovod's caller gets, from what Horovod made of ``compress``'s first result."""
        if context is None:
            return reduced
        if isinstance(context, tf.DType):
            return tf.cast(reduced, context)
        result = context.exchange.result(context.index, reduced)
        return result if context.call.arguments is None else _differentiable(context, result)

    def _exchange(self, scheme: Scheme, call: Call, given: Any, compressor: str) -> tuple[Exchange, int]:
        """The exchange of ``call``, made when the first of its tensors comes, and which of them ``given`` is."""
        open_ = getattr(self._thread, "open", None)
        if open_ is None or open_.scheme != scheme or open_.given is not call.given:
            with _graph_of(call, compressor):
                calls.refuse_xla(call.operation, compressor)
                world, shared = _world(call.process_set)
                kind = HostExchange if scheme.on_host else Exchange
                exchange = kind(scheme, call, world, shared, self._names.of(call))
            self._thread.open = None
            ours = [index for index, tensor in enumerate(call.tensors) if is_ours(tensor)]
            open_ = _Open(scheme, call.given, exchange, ours)
        # Horovod asks in the order of its groups, and one tensor may be there twice.
        index = next(index for index in open_.missing if call.given[index] is given)
        open_.missing.remove(index)
        # Not longer than needed: it holds gradients.
        self._thread.open = open_ if open_.missing else None
        return open_.exchange, index


class _Names:
    """Names of exchanges: the same on every rank, though ranks may differ in what they exchange.

    What is reduced for a tape or an optimizer is numbered within the function that a user calls, in the order in which
    it is traced. So whoever gets its settings or variables wrong meets the others at their gate, and a function that
    one rank traces again has the names that it had.
    """

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()

    def of(self, call: Call) -> str:
        what = "gradients" if call.arguments is None else digest(call.operation)
        # hvd.elastic.run takes an error for one of Horovod's where it finds this first word in its text.
        name = f"HorovodAllreduce.hvd_gqsgd.{call.process_set.process_set_id}.{what}"
        if tf.executing_eagerly():
            return name
        graph = tf.compat.v1.get_default_graph()
        while getattr(graph, "outer_graph", None) is not None and hasattr(graph.outer_graph, "outer_graph"):
            graph = graph.outer_graph
        counts = self._counts.setdefault(graph, {})
        counts[name] = counts.get(name, -1) + 1
        return f"{name}.{counts[name]}"


def _graph_of(call: Call, compressor: str) -> Any:
    """The graph that the siblings share. Horovod asks for each of them inside a tf.cond of its own."""
    if call.arguments is not None or tf.executing_eagerly():
        return nullcontext()
    outer = getattr(tf.compat.v1.get_default_graph(), "outer_graph", None)
    if outer is None:
        raise UnsupportedError(
            f"{call.operation} with compression={compressor}: expected TensorFlow 2's control flow, got TensorFlow 1's;"
            " leave out tf.compat.v1.disable_v2_behavior() and tf.compat.v1.disable_control_flow_v2()"
        )
    return outer.as_default()


def _differentiable(pending: Pending, result: Any) -> Any:
    """``result``, whose gradient is reduced as the tensor was, compressed as with Compression.fp16."""

    @tf.custom_gradient
    def reduced(tensor: Any) -> Any:
        def backward(gradient: Any) -> Any:
            return hvd.allreduce(gradient, compression=pending.scheme, **(pending.call.arguments or {}))

        return tf.stop_gradient(result), backward

    return reduced(tf.convert_to_tensor(pending.tensor))


def _world(process_set: hvd.ProcessSet) -> tuple[World, Any]:
    """The world when the graph runs, and whether it has more than one rank: None where Horovod does not ask anew.

    Size and rank are tensors in any run: Horovod keeps a tape's graph for later calls, and between two calls may come
    ``hvd.init`` with another communicator.
    """
    number = process_set.process_set_id
    # A set other than the global one has to be made anew after each reset, and with it the graph.
    size, rank = hvd.size_op(number), tf.constant(process_set.rank()) if number else hvd.rank_op()
    if not _elastic():
        return World(size, rank), None
    included = tf.equal(hvd.process_set_included_op(number), 1)
    return World(size, rank), tf.logical_and(included, size > 1)


def _elastic() -> bool:
    return bool(int(os.environ.get("HOROVOD_ELASTIC", 0)))


def _shared(process_set: hvd.ProcessSet) -> bool:
    # A rank outside of the process set has no size here; Horovod says so itself.
    return bool(process_set.included()) and process_set.size() > 1


engine = Engine()
