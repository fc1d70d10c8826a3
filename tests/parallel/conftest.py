"""Rank-neutral tests: valid in one process and under ``horovodrun -np N``; tests/launch starts the latter.

Every rank makes every rank's gradients itself, from seeds, so expectations need no communication.
"""

from __future__ import annotations

import horovod.torch as hvd
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def horovod():
    """Horovod, once for all tests: MPI can't be initialised twice."""
    hvd.init(process_sets="dynamic")
    yield hvd
    hvd.shutdown()


@pytest.fixture(autouse=True)
def in_step(horovod):
    """No rank begins a test while another is still in the one before."""
    horovod.allreduce(torch.zeros(1), name="in_step")


@pytest.fixture
def several(horovod):
    """The world's size, for what only several ranks can show; with one rank the test asserts nothing and is skipped."""
    if horovod.size() == 1:
        pytest.skip("needs several ranks: runs under horovodrun, from tests/launch")
    return horovod.size()


def pytest_collection_modifyitems(items):
    """Tests that use operations without a name come first.

    Horovod names those by counting a rank's operations. After tests with process sets or hvd.join the ranks have
    different counts, with and without compression.
    """
    items.sort(key=lambda item: item.get_closest_marker("even_handles") is None)
