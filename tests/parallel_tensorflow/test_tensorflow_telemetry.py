"""Reports of each step from eager mode and from graphs."""

import math

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from tf_rig import MODES, gradient, gradients_of, make_variables, run

from hvd_gqsgd import telemetry
from hvd_gqsgd.tensorflow import GlobalQSGD


@pytest.mark.parametrize("mode", MODES)
def test_the_estimate_is_near_the_true_error(several, reports, mode):
    # Settings that no function was traced with before.
    compression = GlobalQSGD(bits=5, seed=400 + MODES.index(mode))
    shape = (70_000,)
    variables = make_variables({"w": shape})
    result = run(mode, lambda: gradients_of(variables, compression))["w"].numpy().astype(np.float64)
    exact = sum(gradient("w", shape, r) for r in range(several)) / several
    (report,) = reports
    truth = np.linalg.norm(result - exact) / np.linalg.norm(result)
    assert report.relative_error == pytest.approx(truth, rel=0.2)
    assert report.blocks == -(-70_000 // 256) and report.nonfinite_blocks == 0
    assert report.dense_bytes == 280_000 and 5 < report.dense_bytes / report.sent_bytes < 6.4


def test_a_traced_function_reports_every_step(several, reports):
    variables = make_variables()
    step = tf.function(lambda: gradients_of(variables, GlobalQSGD(seed=410)))
    for _ in range(3):
        step()
    assert [report.step for report in reports] == [0, 1, 2]


def test_blocks_that_are_not_finite_are_counted_on_every_rank(several, reports):
    given = gradient("x", (2048,), hvd.rank())
    if hvd.rank() == 0:
        given[[5, 1000]] = np.nan
    hvd.allreduce(tf.constant(given, tf.float32), name="x", compression=GlobalQSGD(seed=411))
    (report,) = reports
    assert (report.blocks, report.nonfinite_blocks) == (8, 2)
    assert math.isfinite(report.relative_error)


def test_tensorboard_gets_scalars(several, tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    stop = telemetry.subscribe(telemetry.to_tensorboard(writer))
    gradients_of(make_variables(), GlobalQSGD(seed=412))
    stop()
    writer.close()
    (file,) = tmp_path.iterdir()
    tags = {value.tag for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value}
    names = ("relative_error", "sent_bytes", "compression_ratio", "nonfinite_blocks", "bits")
    assert tags == {f"compression/{name}" for name in names}
