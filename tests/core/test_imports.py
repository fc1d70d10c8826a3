"""Imports point inward only, and nothing but a front end imports a framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hvd_gqsgd

PACKAGE = Path(hvd_gqsgd.__file__).parent
INNER = {
    "errors": set(),
    "traffic": set(),
    "telemetry": {"schemes"},
    "maths": {"errors"},
    "kernels": {"maths", "errors"},
    "schemes": {"kernels", "maths", "errors"},
    "worlds": {"schemes", "kernels", "maths", "errors"},
    "costs": {"schemes", "kernels", "maths", "errors"},
    "torch": {"worlds", "costs", "schemes", "kernels", "maths", "errors", "compat", "traffic", "telemetry"},
    "tensorflow": {"schemes", "kernels", "maths", "errors", "compat", "traffic", "telemetry"},
    "compat": {"errors"},
    "cli": {"compat", "costs", "kernels", "errors"},
}
FRAMEWORKS = ("torch", "tensorflow", "keras", "tf_keras", "horovod", "mpi4py", "mxnet", "matplotlib")
THIRD_PARTY = {
    "errors": set(),
    "torch": {"numpy", "torch", "horovod"},
    "tensorflow": {"numpy", "tensorflow", "keras", "horovod"},
    "traffic": set(),
    # TensorFlow's writer, imported where it is used.
    "telemetry": {"tensorflow"},
    "compat": set(),
    "cli": set(),
    # To draw with, imported where it is used.
    "costs": {"numpy", "matplotlib"},
}

BLOCKED = f"""
import importlib, pkgutil, sys
for name in {FRAMEWORKS}:
    sys.modules[name] = None        # import raises ImportError
import hvd_gqsgd
for part in "maths", "schemes", "kernels", "worlds", "costs", "cli", "errors", "compat", "telemetry":
    module = importlib.import_module("hvd_gqsgd." + part)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        if not found.name.rpartition(".")[2].startswith("_"):       # __main__, and the library that ctypes loads
            importlib.import_module(found.name)
    print(part)
"""


def sources():
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in INNER)


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Dotted names of everything that the file imports, wherever in it."""
    here = ("hvd_gqsgd", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            # "from hvd_gqsgd import kernels" imports a part, "from hvd_gqsgd.kernels import select" a name of one.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_everything_but_the_front_ends_imports_without_a_framework():
    run = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [
        "maths",
        "schemes",
        "kernels",
        "worlds",
        "costs",
        "cli",
        "errors",
        "compat",
        "telemetry",
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_inward(path):
    part = part_of(path)
    inner = {name.split(".")[1] for name in imported(path) if name.startswith("hvd_gqsgd.")}
    outward = inner - INNER[part] - {part, "__version__"}
    assert not outward, f"{path} is in {part}, which may import {sorted(INNER[part])}, and imports {sorted(outward)}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_third_party_imports(path):
    part = part_of(path)
    names = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - {"hvd_gqsgd"}
    allowed = THIRD_PARTY.get(part, {"numpy"})
    assert names <= allowed, f"{path} is in {part}, which may import {sorted(allowed)}, and imports {sorted(names)}"


def test_every_part_is_ruled():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts <= INNER.keys(), f"{sorted(parts - INNER.keys())}: say in INNER what they may import"
