"""Trains until the world has been resized as often as asked; every gradient is checked against the exact mean.

elastic_tensorflow.py FOLDER     writes FOLDER/sizes, one line for each size that rank 0 saw
"""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.tensorflow as hvd
import tensorflow as tf
from tf_rig import assert_are_means, gradients_of, make_variables

FOLDER = Path(sys.argv[1])
PLANNED = [2, 3, 2]
variables = make_variables()
# Traced once by each process, whatever size the world has by then.
traced = tf.function(lambda: gradients_of(variables))


def train(state: hvd.elastic.TensorFlowState) -> None:
    while True:
        if not state.sizes or state.sizes[-1] != hvd.size():
            state.sizes = [*state.sizes, hvd.size()]
            if hvd.rank() == 0:
                (FOLDER / "sizes").write_text(" ".join(map(str, state.sizes)))
        if state.sizes == PLANNED:
            return
        for _ in range(10):
            assert_are_means(traced())
            assert_are_means(gradients_of(variables, step=1), step=1)
        if hvd.rank() == 0:
            # The discovery script reads how far the training has come.
            (FOLDER / "resizes").write_text(str(len(state.sizes)))
        state.commit()


if __name__ == "__main__":
    hvd.init()
    state = hvd.elastic.TensorFlowState(variables=list(variables.values()), sizes=[])
    hvd.elastic.run(train)(state)
    assert traced.experimental_get_tracing_count() == 1
