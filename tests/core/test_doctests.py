"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

from hvd_gqsgd import costs, maths, schemes

MODULES = [
    found.name
    for part in (maths, costs, schemes)
    for found in pkgutil.walk_packages(part.__path__, f"{part.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) >= 3
