"""Schemes on the host: generators that run in Python in every step, between operators of the graph.

What a stage of a generator asks for is known when the graph runs, its kind often before. Buffers travel as bytes
between Python and Horovod's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hvd_gqsgd import kernels, telemetry
from hvd_gqsgd.errors import GQSGDError
from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.schemes.base import AllGather, AllToAll, Bucket, Collective, Kind, Max, Scheme, World
from hvd_gqsgd.schemes.measure import NOTHING, Measured
from hvd_gqsgd.tensorflow.exchange import Exchange
from hvd_gqsgd.tensorflow.library import traffic
from hvd_gqsgd.tensorflow.plan import Load
from hvd_gqsgd.tensorflow.state import Memory, state_of

_THREADS = tf.config.threading.get_intra_op_parallelism_threads()


class HostExchange(Exchange):
    """An Exchange whose scheme works on NumPy arrays."""

    def _prepare(self) -> None:
        state = state_of(self._scheme)
        self._runs = [
            _Run(self._scheme, load, self._check, [state.memory(part.label, part.numel) for part in load.parts])
            for load in self._plan.loads
        ]
        self._decoded: dict[tuple[int, int], Any] = {}

    def _exchange_all(self, step: Any, gate: Any) -> list[Any]:
        decoded, measured = [], []
        for number, (load, run) in enumerate(zip(self._plan.loads, self._runs, strict=True)):
            parts = [_elements(self._tensors[part.spec.index], part.start, part.numel) for part in load.parts]
            given = [gate, step, self._world.size, self._world.rank, *parts]
            stage = _call(run.start, given, _STAGE)
            for turn, kinds in enumerate(self._scheme.stages):
                received = self._carry_out(kinds, stage, f"{number}.{turn}")
                # The state before is an input only so that nothing overtakes it.
                stage = _call(run.resume, [received, stage[0]], _STAGE)
            dtypes = [tf.as_dtype(member.dtype) for member in run.bucket.layout.members]
            *tensors, numbers = _call(run.finish, [stage[0]], [*dtypes, tf.float64])
            for part, tensor in zip(load.parts, tensors, strict=True):
                decoded.append(tf.ensure_shape(tensor, [part.numel]))
            measured.append(numbers)
        if telemetry.active() and measured:
            told = _call(self._publish, [step, *measured], [tf.int32])
            with tf.control_dependencies(told):
                decoded = [tf.identity(tensor) for tensor in decoded]
        return decoded

    def _nothing_exchanged(self) -> list[Any]:
        return [
            tf.zeros([member.numel], tf.as_dtype(member.dtype))
            for run in self._runs
            for member in run.bucket.layout.members
        ]

    def _keep_exchanged(self, tensors: list[Any]) -> None:
        places = [(n, m) for n, load in enumerate(self._plan.loads) for m in range(len(load.parts))]
        self._decoded = dict(zip(places, tensors, strict=False))

    def _decode(self, index: int, scale: Any) -> Any:
        tensor = self._tensors[index]
        parts = [self._decoded[place] for place in self._plan.places[index]]
        mean = parts[0] if len(parts) == 1 else tf.concat(parts, 0)
        return tf.cast(tf.reshape(mean * tf.cast(scale, mean.dtype), tensor.shape), tensor.dtype)

    def _carry_out(self, kinds: Sequence[Kind], stage: list[Any], what: str) -> Any:
        """The bytes that the collective of a stage gives; it is one of ``kinds``."""
        number, sent, splits = stage
        if len(kinds) == 1:
            return self._collective(kinds[0], sent, splits, what)
        branches = [partial(self._collective, k, sent, splits, f"{what}.{i}") for i, k in enumerate(kinds)]
        return tf.switch_case(number, branches)

    def _collective(self, kind: Kind, sent: Any, splits: Any, what: str) -> Any:
        collective, name = kind
        if collective is None:
            return sent
        dtype = tf.as_dtype(name)
        values = tf.bitcast(tf.reshape(sent, [-1, dtype.size]), dtype)
        who = {"name": f"{self._name}.{what}", "process_set": self._call.process_set}
        if collective is AllToAll:
            values = hvd.alltoall(values, splits, **who)[0]
        elif collective is AllGather:
            values = hvd.allgather(values, **who)
        else:
            values = hvd.allreduce(values, op=hvd.Max if collective is Max else hvd.Sum, **who)
        return tf.reshape(tf.bitcast(values, tf.uint8), [-1])

    def _publish(self, step: Any, *measured: np.ndarray) -> Any:
        *numbers, sent_bytes, dense_bytes = np.sum(measured, axis=0).tolist()
        squared_error, squared_mean, *counts = numbers
        report = telemetry.StepReport.of(
            Measured(squared_error, squared_mean, *map(int, counts)),
            operation=self._call.operation,
            step=int(step),
            sent_bytes=int(sent_bytes),
            dense_bytes=int(dense_bytes),
        )
        telemetry.publish(report)
        return np.int32(0)


class _Run:
    """One bucket, in every step anew: between two stages the generator waits here."""

    def __init__(self, scheme: Scheme, load: Load, check: int, memories: list[Memory]) -> None:
        self._scheme = scheme
        self._stages = scheme.stages
        self._memories = memories
        self._asked: Collective | None = None
        self._dense_bytes = sum(part.spec.dtype.size * part.numel for part in load.parts)
        self._kernels = kernels.select(threads=_THREADS)
        labels, shapes = [part.label for part in load.parts], tuple(part.shape for part in load.parts)
        layout = _single_or_double(load.layout)
        self.bucket = Bucket.of_arrays(layout, check, labels, names=load.names, shapes=shapes)

    def start(self, gate: Any, step: Any, size: Any, rank: Any, *tensors: np.ndarray) -> list[Any]:
        """Run up to the first collective."""
        bucket = self.bucket
        self._world = World(int(size), int(rank))
        self._sent_bytes = self._turn = 0
        bucket.step, bucket.tensors = int(step), tensors
        bucket.memory = [memory.arrays for memory in self._memories]
        if self._scheme.keeps_residuals:
            bucket.residuals = [memory.residual for memory in self._memories]
        self._generator = self._scheme.collectives(bucket, self._kernels, self._world)
        return self._stage(None)

    def resume(self, received: np.ndarray, before: Any) -> list[Any]:
        """Run up to the next collective with what the last one gave."""
        asked = self._asked
        self._turn += 1
        if asked is None:
            return self._stage_of(None)
        values = received.view(asked.buffer.dtype)
        if isinstance(asked, AllToAll | AllGather):
            return self._stage(values)
        asked.buffer[...] = values.reshape(asked.buffer.shape)
        return self._stage(asked.buffer)

    def finish(self, before: Any) -> list[np.ndarray]:
        """The means of all members, and what telemetry wants to know."""
        assert self._asked is None, f"{self._scheme!r} has more collectives than it says"
        bucket = self.bucket
        # Not the same arrays again: whoever has the gradients of a step may keep them.
        out = [np.empty(member.numel, member.dtype) for member in bucket.layout.members]
        self._scheme.decode(bucket, self._kernels, self._world, out, scale=1.0)
        traffic.add(self._sent_bytes, self._dense_bytes)
        measured = self._scheme.measure(bucket, self._world) if telemetry.active() else NOTHING
        bucket.tensors = bucket.residuals = bucket.memory = ()
        return [*out, np.array([*measured, self._sent_bytes, self._dense_bytes], np.float64)]

    def _stage(self, result: Any) -> list[Any]:
        try:
            self._asked = self._generator.send(result)
            self._sent_bytes += self._asked.allreduce_bytes(self._world.size)
        except StopIteration:
            self._asked = None
        return self._stage_of(self._asked)

    def _stage_of(self, asked: Collective | None) -> list[Any]:
        """What is asked for: its number among the kinds that this stage may be, bytes, splits."""
        kind: Kind = (None, "") if asked is None else (type(asked), asked.buffer.dtype.name)
        # After the last one there is nothing to ask for.
        kinds = self._stages[self._turn] if self._turn < len(self._stages) else [(None, "")]
        number = kinds.index(kind)
        if asked is None:
            return [np.int32(number), np.empty(0, np.uint8), np.empty(0, np.int32)]
        sent = np.ascontiguousarray(asked.buffer).view(np.uint8).reshape(-1)
        splits = asked.splits if isinstance(asked, AllToAll) else ()
        return [np.int32(number), sent, np.array(splits, np.int32)]


#: Number of the kind, bytes, splits.
_STAGE = [tf.int32, tf.uint8, tf.int32]


def _call(function: Callable[..., Any], inputs: Sequence[Any], dtypes: list[Any]) -> list[Any]:
    """``function`` as an operator of the graph, or at once in eager mode, where its own exceptions come through."""
    if not tf.executing_eagerly():
        return tf.numpy_function(_in_words(function), inputs, dtypes)
    results = function(*(np.asarray(value) for value in inputs))
    results = results if isinstance(results, list) else [results]
    return [tf.convert_to_tensor(value, dtype) for value, dtype in zip(results, dtypes, strict=True)]


def _in_words(function: Callable[..., Any]) -> Callable[..., Any]:
    """A ValueError for whatever we raise: TensorFlow makes tf.errors.InvalidArgumentError of it."""

    def called(*inputs: Any) -> Any:
        try:
            return function(*inputs)
        except GQSGDError as error:
            raise ValueError(str(error)) from error

    return called


def _elements(tensor: Any, start: int, numel: int) -> Any:
    """Elements [start, start + numel) in float32, or float64 where they are that."""
    flat = tf.reshape(tensor, [-1])[start : start + numel]
    return flat if flat.dtype == tf.float64 else tf.cast(flat, tf.float32)


def _single_or_double(layout: Layout) -> Layout:
    # NumPy has no bfloat16, and to float32 both half precisions are exact.
    members = tuple(replace(m, dtype="float64" if m.dtype == "float64" else "float32") for m in layout.members)
    return replace(layout, members=members)
