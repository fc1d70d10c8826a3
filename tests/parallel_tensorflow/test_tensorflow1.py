"""Sessions of TensorFlow 1, and what is not served of it."""

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from tf_rig import assert_is_mean, gradient, still_works

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.tensorflow import GlobalQSGD

v1 = tf.compat.v1


def make_training():
    weights = v1.get_variable("w", [2000], initializer=v1.zeros_initializer())
    optimizer = hvd.DistributedOptimizer(v1.train.GradientDescentOptimizer(1.0), compression=GlobalQSGD)
    return weights, optimizer.minimize(tf.reduce_sum(weights * gradient("w", (2000,), hvd.rank()).astype("f")))


@pytest.mark.parametrize("graph", range(2))
def test_an_optimizer_in_a_session(graph):
    with tf.Graph().as_default():
        weights, train = make_training()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            before = np.zeros(2000, "f")
            steps = []
            for _ in range(3):
                session.run(train)
                after = session.run(weights)
                steps.append(before - after)
                before = after
    for step in steps:
        assert_is_mean(tf.constant(step), "w", slack=1e-6)
    assert hvd.size() == 1 or (steps[0] != steps[1]).any()


def test_control_flow_of_tensorflow_1_says_so(several):
    v1.disable_control_flow_v2()
    try:
        with (
            tf.Graph().as_default(),
            pytest.raises(UnsupportedError, match="DistributedGradientDescentOptimizer .*expect"),
        ):
            make_training()
    finally:
        v1.enable_control_flow_v2()
    still_works()
