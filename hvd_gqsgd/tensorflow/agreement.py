"""A gate in front of an exchange: in every step, nothing is sent before all ranks are known to mean the same.

It costs one allreduce of eight bytes that waits for no gradient, so under tf.function it is over before the first one
is there. Its size is always the same, and its name says where it stands in the program, and nothing of settings,
variables or shapes, which is what ranks get wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hvd_gqsgd.schemes.agreement import (
    DIGESTS_BYTES,
    FULL_BYTES,
    Statement,
    digests_of,
    only_odd,
    pack,
    unpack,
    verdict,
)
from hvd_gqsgd.schemes.base import CHECK_RANGE, World
from hvd_gqsgd.tensorflow.graph import after

_HEADER_BYTES = 8


@dataclass(frozen=True)
class Parties:
    """The ranks that have something to agree on.

    name: of the collectives, the same on every rank. operation: for messages.
    """

    world: World
    process_set: hvd.ProcessSet
    name: str
    operation: str

    def gate(self, statement: Statement, check: int, step: Any) -> Any:
        """A float32 () that is there once all ranks are known to have the same ``check``; they get an error otherwise.

        The error is DisagreementError or SettingsError in eager mode, tf.errors.InvalidArgumentError with the same
        words when a graph runs. step: any tensor; without one Grappler would reduce constants once and for all.
        """
        # As Bucket.write_header, which says why it is the complement.
        low = CHECK_RANGE if statement.problem else check
        high = CHECK_RANGE if statement.problem else CHECK_RANGE - check
        header = after(tf.constant([low, high], tf.float32), tf.cast(step, tf.float32), sent_bytes=_HEADER_BYTES)
        header = self._allreduce(header, hvd.Max, "agreement")
        differs = tf.not_equal(header[0], CHECK_RANGE - header[1])
        if tf.executing_eagerly():
            if differs:
                raise self._disagreement(statement)
            return tf.zeros([])
        return tf.cond(differs, lambda: self._fail(statement), lambda: tf.zeros([]))

    def _disagreement(self, statement: Statement) -> Exception:
        said = self._gather(tf.constant(digests_of(statement)), DIGESTS_BYTES, "digests")
        odd = only_odd(statement, unpack(said.numpy()))
        said = self._gather(tf.constant(odd.to_bytes(FULL_BYTES)), FULL_BYTES, "full")
        return self._verdict(said.numpy())

    def _fail(self, statement: Statement) -> Any:
        """``_disagreement`` when the graph runs."""

        def odd(slots: np.ndarray) -> bytes:
            return only_odd(statement, unpack(slots)).to_bytes(FULL_BYTES)

        said = self._gather(tf.constant(digests_of(statement)), DIGESTS_BYTES, "digests")
        said = self._gather(tf.numpy_function(odd, [said], tf.string), FULL_BYTES, "full")
        message = tf.numpy_function(lambda slots: str(self._verdict(slots)).encode(), [said], tf.string)
        with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
            return tf.zeros([])

    def _verdict(self, slots: np.ndarray) -> Exception:
        said = unpack(slots)
        return verdict(self.operation, {rank: Statement.from_bytes(text) for rank, text in said.items()})

    def _gather(self, text: Any, slot_bytes: int, kind: str) -> Any:
        def slots(text: Any, size: Any, rank: Any) -> np.ndarray:
            # Bytes when a graph runs, an array of them in eager mode.
            return pack(np.asarray(text, object).item(), slot_bytes, int(size), int(rank))

        packed = tf.numpy_function(slots, [text, self.world.size, self.world.rank], tf.int32)
        packed.set_shape([None, 1 + slot_bytes // 4])
        return self._allreduce(packed, hvd.Sum, kind)

    def _allreduce(self, tensor: Any, op: Any, kind: str) -> Any:
        return hvd.allreduce(tensor, op=op, name=f"{self.name}.{kind}", process_set=self.process_set)
