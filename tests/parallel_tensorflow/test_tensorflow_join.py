"""hvd.join: ranks that have no more batches count as absent."""

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from tf_rig import assert_are_means, gradient, gradients_of, level_of, make_variables, run, still_works

from hvd_gqsgd.tensorflow import GlobalQSGD


def test_uneven_numbers_of_batches(several):
    # One test for everything: a second hvd.join() of a process returns at once in Horovod 0.28.1's TensorFlow.
    variables = make_variables()
    traced = tf.function(lambda: gradients_of(variables))
    for step in range(2):
        assert_are_means(gradients_of(variables, step=step), step=step)
        assert_are_means(traced())
    if hvd.rank() != 0:
        for results in (gradients_of(variables), run("function", lambda: gradients_of(variables)), traced()):
            for name, result in results.items():
                values = [gradient(name, result.shape, rank) for rank in range(1, several)]
                # The levels are those of the whole world; Horovod's average divides by its size, whoever is present.
                bound = 1e-5 + level_of([*values, values[0] * 0])
                error = np.abs(result.numpy() - sum(values) / several)
                assert (error <= bound).all(), (name, error.max())
        x = tf.cast(gradient("x", (5000,), hvd.rank()), tf.float32)
        result = hvd.allreduce(x, op=hvd.Sum, name="x", compression=GlobalQSGD)
        values = [gradient("x", (5000,), rank) for rank in range(1, several)]
        bound = several * level_of([*values, values[0] * 0])
        assert (np.abs(result.numpy() - sum(values)) <= bound).all()
    hvd.join()
    still_works()
