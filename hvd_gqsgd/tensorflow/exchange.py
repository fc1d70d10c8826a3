"""All tensors of one operation on their way: a scheme's generator, run once, as operators of the graph.

Every collective is an operator of Horovod's with a name of its own, so a bucket leaves as soon as its gradients are
there, and TensorFlow overlaps what does not wait for each other.
"""

from __future__ import annotations

from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hvd_gqsgd import telemetry
from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.schemes.agreement import Statement
from hvd_gqsgd.schemes.base import Max, Scheme, World
from hvd_gqsgd.schemes.measure import NOTHING, measure
from hvd_gqsgd.tensorflow.agreement import Parties
from hvd_gqsgd.tensorflow.calls import Call
from hvd_gqsgd.tensorflow.graph import Buffer, GraphBucket, GraphKernels, PartBuffer, after
from hvd_gqsgd.tensorflow.plan import Load, Plan
from hvd_gqsgd.tensorflow.state import state_of


class Exchange:
    """What one operation makes of its tensors.

    world: as it is when the graph runs. shared: a bool tensor, whether there is anybody to exchange with then; None
    where that is known to be so. name: of the collectives, the same on every rank.
    """

    def __init__(self, scheme: Scheme, call: Call, world: World, shared: Any, name: str) -> None:
        self._scheme = scheme
        self._call = call
        self._world = world
        self._name = name
        self._shared = shared
        self._plan = Plan.of(scheme, call)
        self._tensors = list(call.tensors)
        for spec in self._plan.specs:
            # Nothing where the shape is known; else it is one that only the variable knew.
            self._tensors[spec.index] = tf.ensure_shape(call.tensors[spec.index], spec.shape)
        self._check = self._plan.check_value(scheme)
        self._refuse_unnamed()
        self._prepare()
        # An elastic run learns its size when the graph runs, and the operators say it there.
        self._problem = scheme.misfit(call.process_set.size()) if shared is None else ""
        tensors = self._run() if shared is None else tf.cond(shared, self._run, self._nothing)
        self._keep(tensors)

    def _prepare(self) -> None:
        self._kernels = GraphKernels(self._check)
        self._buckets = [
            GraphBucket(load.layout, load.names, self._check, norms=Buffer(), words=Buffer())
            for load in self._plan.loads
        ]

    def send(self, index: int) -> Any:
        """What Horovod is to reduce for the tensor with number ``index``.

        For one that is compressed a probe: a 1, which returns as the factor that the user asked for. In float32 or
        float64, because Horovod takes no bfloat16 and, in a group, no two dtypes.
        """
        tensor = self._tensors[index]
        dtype = tf.float64 if tensor.dtype == tf.float64 else tf.float32
        if self._compresses(index):
            return after(tf.ones([1], dtype), self._gate, place=index, sent_bytes=dtype.size)
        numel = tensor.shape.num_elements()
        sizes = {"sent_bytes": numel * dtype.size, "dense_bytes": numel * tensor.dtype.size}
        return after(tf.cast(tensor, dtype), self._gate, place=index, **sizes)

    def result(self, index: int, reduced: Any) -> Any:
        """The reduced tensor with number ``index``, from what Horovod made of what was sent."""
        tensor = self._tensors[index]
        if not self._compresses(index):
            return tf.cast(reduced, tensor.dtype)
        if self._shared is None:
            return self._decode(index, reduced[0])
        return tf.cond(
            self._shared,
            lambda: self._decode(index, reduced[0]),
            lambda: tensor * tf.cast(reduced[0], tensor.dtype),
        )

    def _decode(self, index: int, scale: Any) -> Any:
        tensor = self._tensors[index]
        for load, member in self._plan.places[index]:
            part = self._plan.loads[load].parts[member]
            asked: list[PartBuffer | None] = [None] * len(self._plan.loads[load].parts)
            asked[member] = buffer = PartBuffer(tensor, part.start)
            self._scheme.decode(self._buckets[load], self._kernels, self._world, asked, scale=scale)
            tensor = buffer.tensor
        return tensor

    def _compresses(self, index: int) -> bool:
        # With a problem here, every rank fails at the gate.
        return not self._problem and index in self._plan.places

    def _run(self) -> list[Any]:
        """Everything up to the sums; the tensors that ``_keep`` takes apart again."""
        step = state_of(self._scheme).next_step()
        statement = Statement.of(self._scheme, [str(spec) for spec in self._plan.specs], self._problem)
        parties = Parties(self._world, self._call.process_set, self._name, self._call.operation)
        gate = parties.gate(statement, self._check, step)
        return [gate] if self._problem else [gate, *self._exchange_all(step, gate)]

    def _nothing(self) -> list[Any]:
        """As many tensors as ``_run`` gives, for ranks that are alone."""
        return [tf.zeros([]), *self._nothing_exchanged()]

    def _keep(self, tensors: list[Any]) -> None:
        self._gate, *rest = tensors
        if not self._problem:
            self._keep_exchanged(rest)

    def _exchange_all(self, step: Any, gate: Any) -> list[Any]:
        """Norms and words of every bucket, reduced."""
        self._kernels.gate = gate
        for number, load in enumerate(self._plan.loads):
            self._exchange(number, load, step)
        if telemetry.active() and self._buckets:
            self._report(step)
        return [buffer.tensor for bucket in self._buckets for buffer in (bucket.norms, bucket.words)]

    def _nothing_exchanged(self) -> list[Any]:
        sums = []
        for load in self._plan.loads:
            sums += [tf.zeros([load.layout.norms_numel]), tf.zeros([load.layout.words_numel], tf.int32)]
        return sums

    def _keep_exchanged(self, tensors: list[Any]) -> None:
        rest = tensors
        for bucket in self._buckets:
            bucket.norms.tensor, bucket.words.tensor, *rest = rest

    def _exchange(self, number: int, load: Load, step: Any) -> None:
        bucket = self._buckets[number]
        bucket.step = step
        bucket.tensors = [PartBuffer(self._tensors[part.spec.index], part.start) for part in load.parts]
        kept = self._residuals_of(load)
        bucket.residuals = [Buffer(tf.convert_to_tensor(variable)) for variable in kept]
        for turn, collective in enumerate(self._scheme.collectives(bucket, self._kernels, self._world)):
            op = hvd.Max if isinstance(collective, Max) else hvd.Sum
            buffer: Any = collective.buffer
            buffer.tensor = self._allreduce(buffer.tensor, op, f"{number}.{turn}")
        left = [variable.assign(b.tensor) for variable, b in zip(kept, bucket.residuals, strict=True)]
        with tf.control_dependencies(left):
            bucket.words.tensor = tf.identity(bucket.words.tensor)
        bucket.tensors = bucket.residuals = ()

    def _report(self, step: Any) -> None:
        """Tell telemetry's callbacks when the graph runs."""
        operation, layouts = self._call.operation, [load.layout for load in self._plan.loads]
        dense_bytes = sum(part.spec.dtype.size * part.numel for load in self._plan.loads for part in load.parts)

        def publish(step: Any, size: Any, *arrays: Any) -> Any:
            measured = NOTHING
            for layout, norms, words in zip(layouts, arrays[::2], arrays[1::2], strict=True):
                measured = measured.plus(measure(layout, norms, words, int(size), int(words[0])))
            counts = {"sent_bytes": sum(array.nbytes for array in arrays), "dense_bytes": dense_bytes}
            telemetry.publish(telemetry.StepReport.of(measured, operation=operation, step=int(step), **counts))
            return np.int32(0)

        buffers = [b.tensor for bucket in self._buckets for b in (bucket.norms, bucket.words)]
        told = tf.numpy_function(publish, [step, self._world.size, *buffers], tf.int32)
        with tf.control_dependencies([told]):
            self._buckets[-1].words.tensor = tf.identity(self._buckets[-1].words.tensor)

    def _refuse_unnamed(self) -> None:
        call, scheme = self._call, self._scheme
        if scheme.remembers and call.arguments is not None and call.names[0].startswith("noname"):
            raise UnsupportedError(f"{call.operation} {scheme.unnamed}")

    def _residuals_of(self, load: Load) -> list[tf.Variable]:
        """What is left over of each part; nothing without error feedback."""
        if not self._scheme.keeps_residuals:
            return []
        state = state_of(self._scheme)
        return [state.residual(part.label, part.numel) for part in load.parts]

    def _allreduce(self, tensor: Any, op: Any, what: str) -> Any:
        return hvd.allreduce(tensor, op=op, name=f"{self._name}.{what}", process_set=self._call.process_set)
