"""Rank-neutral tests of the TensorFlow front end: valid in one process and under ``horovodrun -np N``.

Without TensorFlow, or without Horovod's support for it, importing this file fails, and the run with it: nothing is
skipped.
"""

from __future__ import annotations

import horovod.tensorflow as hvd
import pytest
import tensorflow as tf


@pytest.fixture(scope="session", autouse=True)
def horovod():
    """Horovod, once for all tests: MPI can't be initialised twice."""
    hvd.init(process_sets="dynamic")
    yield hvd
    hvd.shutdown()


@pytest.fixture(autouse=True)
def in_step(horovod):
    """No rank begins a test while another is still in the one before."""
    horovod.allreduce(tf.zeros([1]), name="in_step")


@pytest.fixture
def several(horovod):
    """The world's size, for what only several ranks can show; with one rank the test asserts nothing and is skipped."""
    if horovod.size() == 1:
        pytest.skip("needs several ranks: runs under horovodrun, from tests/launch")
    return horovod.size()
