"""What a compressor remembers from step to step, as TensorFlow variables."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf

from hvd_gqsgd.schemes.base import Scheme


class CompressionState(tf.Module):
    """The state of all compressors with the same settings; save and restore it with tf.train.Checkpoint.

    step: int64 (), exchanges made so far: the part of the dither's key that makes it fresh each time.
    """

    def __init__(self) -> None:
        super().__init__(name="hvd_gqsgd")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")

    def next_step(self) -> Any:
        """The number of an exchange that no exchange before it had, as a tensor; counts on when the graph runs."""
        return self.step.assign_add(1, read_value=True) - 1


#: Where nothing is being traced by TensorFlow 1.
_states: dict[Scheme, CompressionState] = {}
#: The collection in which a graph of TensorFlow 1 keeps its own, so that they go when it goes.
_COLLECTION = "hvd_gqsgd_states"


def state_of(scheme: Scheme) -> CompressionState:
    """The state of ``scheme``, made when it is first asked for.

    Equal settings share it, because ``compression=GlobalQSGD(bits=4)`` may be written in the loop over steps.
    """
    with tf.init_scope():
        if tf.executing_eagerly():
            if scheme not in _states:
                _states[scheme] = _made_outside()
            return _states[scheme]
        kept = tf.compat.v1.get_collection_ref(_COLLECTION)
        if not kept:
            kept.append({})
        if scheme not in kept[0]:
            kept[0][scheme] = CompressionState()
        return kept[0][scheme]


def _made_outside() -> CompressionState:
    """A state whose variable belongs to no function: tf.init_scope alone leaves it to the one that is being traced.

    That one refuses variables from its second trace on. What is traced is known to one thread only.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(CompressionState).result()
