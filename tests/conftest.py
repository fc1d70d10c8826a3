"""For all tests: a setting that comes before any of them imports TensorFlow, and what the telemetry of both shares."""

import os

import pytest

from hvd_gqsgd import telemetry

# For horovod.tensorflow.keras, which is for Keras 2. Keras 3 is tested beside it, as `keras`.
os.environ["TF_USE_LEGACY_KERAS"] = "1"


@pytest.fixture
def reports():
    """What telemetry reports during a test."""
    seen = []
    stop = telemetry.subscribe(seen.append)
    yield seen
    stop()
    assert not telemetry.active()
