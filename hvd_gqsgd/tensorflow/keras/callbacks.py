"""Horovod's two indispensable callbacks, in Keras 3's terms."""

from __future__ import annotations

from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Gives every rank the root's weights and optimizer variables before the first step."""

    def __init__(self, root_rank: int = 0, process_set: hvd.ProcessSet = hvd.global_process_set) -> None:
        super().__init__()
        self._root_rank = root_rank
        self._process_set = process_set

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        variables = [v.value for v in (*self.model.weights, *optimizer.variables)]
        hvd.broadcast_variables(variables, self._root_rank, process_set=self._process_set)


class MetricAverageCallback(keras.callbacks.Callback):
    """Averages each epoch's metrics over all ranks, in place; put it before callbacks that read them."""

    def __init__(self, process_set: hvd.ProcessSet = hvd.global_process_set) -> None:
        super().__init__()
        self._process_set = process_set

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        for name in sorted(logs or {}):
            value = tf.constant(logs[name], tf.float64)  # type: ignore[index]
            logs[name] = float(hvd.allreduce(value, name=f"metric.{name}", process_set=self._process_set))  # type: ignore[index]
