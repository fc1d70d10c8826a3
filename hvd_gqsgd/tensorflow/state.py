"""What a compressor remembers from step to step, as TensorFlow variables."""

from __future__ import annotations

from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

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


class _Eager:
    """Stands for "no graph" among the graphs."""


_EAGER = _Eager()
_states: MutableMapping[Any, dict[Scheme, CompressionState]] = WeakKeyDictionary()


def state_of(scheme: Scheme) -> CompressionState:
    """The state of ``scheme``, made when it is first asked for.

    Equal settings share it, because ``compression=GlobalQSGD(bits=4)`` may be written in the loop over steps.
    """
    # TensorFlow 1's sessions have one state for each graph; otherwise there is one, whatever is being traced.
    with tf.init_scope():
        eager = tf.executing_eagerly()
        states = _states.setdefault(_EAGER if eager else tf.compat.v1.get_default_graph(), {})
        if scheme not in states:
            states[scheme] = _made_outside() if eager else CompressionState()
        return states[scheme]


def _made_outside() -> CompressionState:
    """A state whose variable belongs to no function: tf.init_scope alone leaves it to the one that is being traced.

    That one refuses variables from its second trace on. What is traced is known to one thread only.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(CompressionState).result()
