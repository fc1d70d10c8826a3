"""Clusters of real containers; `make test-cluster` runs these, with an engine and a base image from bootstrap."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nodes import Cluster, cluster, left_overs


def pytest_collection_modifyitems(items):
    """Tests are given some minutes, the image before the first of them as long as it takes."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(600, func_only=True))


@pytest.fixture(scope="session")
def image() -> str:
    """The image, built as a user builds it."""
    base = ["--base", os.environ["BASE"]] if "BASE" in os.environ else []
    done = cluster("build", *base, timeout=3000)
    assert done.returncode == 0, done.stdout[-6000:]
    return "localhost/hvd_gqsgd"


@pytest.fixture
def make_cluster(image) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters; whatever a test did to their nodes, nothing of them is left after it."""
    made: list[Cluster] = []

    def make(nodes: int, *options: str) -> Cluster:
        made.append(Cluster(f"hvd-gqsgd-test-{uuid.uuid4().hex[:6]}", nodes))
        made[-1].up(*options)
        return made[-1]

    yield make
    # The last one first: it may have been joined to another's network.
    for one in reversed(made):
        one.down()
    assert [left_overs(one) for one in made] == [{}] * len(made)


@pytest.fixture
def three(make_cluster) -> Cluster:
    return make_cluster(3)
