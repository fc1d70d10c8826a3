"""The examples in docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

from hvd_gqsgd import maths

MODULES = [found.name for found in pkgutil.walk_packages(maths.__path__, "hvd_gqsgd.maths.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
