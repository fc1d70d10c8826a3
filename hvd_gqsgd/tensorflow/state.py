"""What a compressor remembers from step to step, as TensorFlow variables."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import tensorflow as tf

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.schemes.base import Scheme


@dataclass
class Memory:
    """What a scheme on the host remembers of a part of a tensor: its elements, and arrays by name."""

    numel: int
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def residual(self) -> np.ndarray:
        """What is left over, with error feedback."""
        if "residual" not in self.arrays:
            self.arrays["residual"] = np.zeros(self.numel, np.float32)
        return self.arrays["residual"]


class _Memories(tf.train.experimental.PythonState):
    """Memories by label, in a checkpoint as one string: NumPy's own format for several arrays."""

    def __init__(self) -> None:
        self.by_label: dict[str, Memory] = {}

    def serialize(self) -> bytes:
        labels = list(self.by_label)
        arrays = {f"{i}/{name}": a for i, lab in enumerate(labels) for name, a in self.by_label[lab].arrays.items()}
        file = BytesIO()
        numels = np.array([self.by_label[label].numel for label in labels], np.int64)
        np.savez(file, labels=np.array(labels, np.str_), numels=numels, **arrays)
        return file.getvalue()

    def deserialize(self, string_value: bytes) -> None:
        with np.load(BytesIO(string_value)) as saved:
            for index, (label, numel) in enumerate(zip(saved["labels"].tolist(), saved["numels"], strict=True)):
                # The same objects: a function that was traced has them.
                memory = self.by_label.setdefault(label, Memory(int(numel)))
                memory.numel = int(numel)
                memory.arrays.clear()
                mine = [key for key in saved.files if key.startswith(f"{index}/")]
                memory.arrays.update({key.partition("/")[2]: saved[key] for key in mine})


class CompressionState(tf.Module):
    """The state of all compressors with the same settings; save and restore it with tf.train.Checkpoint.

    step: int64 (), exchanges made so far: the part of the dither's key that makes it fresh each time.
    residuals: with error feedback, what is left over of each tensor or part of one, flat float32, by its label: Horovod
        runs one graph for all models whose variables have the same shapes, so nothing else can tell them apart. They
        are made when a function is traced, and restored then if a checkpoint was read before. They are each rank's own,
        so every rank needs a checkpoint of its own.
    memories: the same of schemes on the host, which are not variables.
    """

    def __init__(self) -> None:
        super().__init__(name="hvd_gqsgd")
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.residuals: dict[str, tf.Variable] = {}
        self.memories = _Memories()

    def next_step(self) -> Any:
        """The number of an exchange that no exchange before it had, as a tensor; counts on when the graph runs."""
        return self.step.assign_add(1, read_value=True) - 1

    def residual(self, label: str, numel: int) -> tf.Variable:
        """What is left over of the tensor ``label``, zeros at first; float32 (numel,).

        Raises UnsupportedError where another tensor of that label is known.
        """
        if label not in self.residuals:
            zeros = np.zeros(numel, np.float32)
            self.residuals[label] = _outside(lambda: tf.Variable(zeros, trainable=False, name="residual"))
        kept = self.residuals[label]
        _check_numel(label, kept.shape.num_elements(), numel)
        return kept

    def memory(self, label: str, numel: int) -> Memory:
        """What a scheme on the host remembers of the tensor ``label``, nothing at first. Raises as ``residual``."""
        kept = self.memories.by_label.setdefault(label, Memory(numel))
        _check_numel(label, kept.numel, numel)
        return kept


def _check_numel(label: str, kept: int, got: int) -> None:
    if kept != got:
        raise UnsupportedError(
            f"error feedback of {label!r}: expected {kept} elements as before, got {got}; "
            "two models with equal names need settings of their own: write for instance seed=1 for one of them"
        )


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
                _states[scheme] = _outside(CompressionState)
            return _states[scheme]
        kept = tf.compat.v1.get_collection_ref(_COLLECTION)
        if not kept:
            kept.append({})
        if scheme not in kept[0]:
            kept[0][scheme] = CompressionState()
        return kept[0][scheme]


def _outside(make: Callable[[], Any]) -> Any:
    """``make()`` where its variable belongs to no function: tf.init_scope alone leaves it to the one being traced.

    That one refuses variables from its second trace on. What is traced is known to one thread only.
    """
    with tf.init_scope():
        if not tf.executing_eagerly():
            return make()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
