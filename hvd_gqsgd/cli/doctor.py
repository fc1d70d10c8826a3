"""``hvd-gqsgd doctor``: what is installed, what is built, which kernels run, and one line for each thing to do."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from hvd_gqsgd import compat
from hvd_gqsgd.cli.facts import DISTRIBUTIONS, Facts, collect
from hvd_gqsgd.kernels.compiled import BUILD

_SETUP = "`make setup` in hvd_gqsgd's source tree"


def add_parser(subparsers: Any) -> None:
    """Add ``doctor`` to the subparsers of an argparse parser."""
    parser = subparsers.add_parser("doctor", help="what is installed, what is built, what is missing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 0 if a training run with GlobalQSGD works here, else 1."""
    facts = collect()
    ready = trainable(facts)
    for name, value in table(facts):
        print(f"{name:<18} {value}")
    print()
    for line in advice(facts):
        print(f"- {line}")
    print(f"GlobalQSGD can train here with: {', '.join(ready)}" if ready else "GlobalQSGD cannot train here yet.")
    return 0 if ready else 1


def table(facts: Facts) -> Iterator[tuple[str, str]]:
    """(name, value) rows."""
    for name in ("Python", "hvd_gqsgd", *DISTRIBUTIONS, "Open MPI"):
        yield name, facts.versions.get(name, "-")
    yield "Horovod built for", ", ".join(f"{k} {v}" for k, v in facts.horovod_built_for.items()) or "-"
    yield "Horovod runs on", ", ".join(facts.horovod_operations or ()) or "-"
    kernels = facts.kernels
    yield "kernels", f"{kernels['kernels']} ({kernels['why']}), {kernels['threads']} threads" if kernels else "-"


def trainable(facts: Facts) -> list[str]:
    """The frameworks with which a run works: installed, Horovod built for it, a front end here, kernels that load."""
    horovod = facts.versions.get("horovod", "")
    if facts.kernels is None or facts.horovod_error or horovod not in compat.HOROVOD:
        return []
    usable = facts.versions.keys() & facts.horovod_built_for.keys() & facts.front_ends
    if not facts.operators_built or facts.kernels["kernels"] == "reference":
        usable -= {"tensorflow"}
    return sorted(usable)


def advice(facts: Facts) -> Iterator[str]:
    """One line for each thing that is missing or outside the tested range: what it is, and what to do."""
    yield from _about_frameworks(facts)
    yield from _about_horovod(facts)
    yield from _about_mpi(facts)
    if facts.kernels_error:
        yield f"kernels: {facts.kernels_error}"
    elif facts.kernels and facts.kernels["kernels"] == "reference":
        yield "kernels: NumPy's run, slowly, and not in TensorFlow; unset HVD_GQSGD_KERNELS for the compiled ones"
    if "tensorflow" in facts.versions and "tensorflow" in facts.front_ends and not facts.operators_built:
        yield f"tensorflow: its operators are not built; build them with {BUILD}"


def _about_frameworks(facts: Facts) -> Iterator[str]:
    if not facts.versions.keys() & compat.FRAMEWORKS.keys():
        yield f"torch, tensorflow: neither is installed; {_SETUP} installs both"
    for name, tested in compat.FRAMEWORKS.items():
        version = facts.versions.get(name)
        if version is None:
            continue
        if version not in tested:
            yield f"{name}: tested with {tested}, got {version}; if it fails, `pip install '{name}{tested}'`"
        if name not in facts.front_ends:
            yield f"{name}: this version of hvd_gqsgd has no front end for it; use torch"
    if "tensorflow" in facts.versions and "tf_keras" not in facts.versions:
        minor = ".".join(facts.versions["tensorflow"].split(".")[:2])
        yield f"tf_keras: Horovod's Keras optimizer needs it; `pip install --no-deps 'tf_keras=={minor}.*'`"


def _about_horovod(facts: Facts) -> Iterator[str]:
    version = facts.versions.get("horovod")
    if version is None:
        yield f"horovod: not installed; {_SETUP} builds it"
        return
    if version not in compat.HOROVOD:
        yield f"horovod: tested with {compat.HOROVOD}, got {version}; {_SETUP} installs one that is"
    if facts.horovod_error:
        yield f"horovod: does not load ({facts.horovod_error}); rebuild it with {_SETUP}"
    elif facts.horovod_operations is None and facts.horovod_built_for:
        yield "horovod: `horovodrun --check-build` says whether MPI, Gloo and NCCL are built (it starts TensorFlow)"
    for name in compat.FRAMEWORKS:
        installed, built = facts.versions.get(name), facts.horovod_built_for.get(name)
        if installed and built is None:
            yield f"horovod: not built for {name}; rebuild it with {_SETUP}"
        elif installed and built != installed:
            yield f"horovod: built for {name} {built}, but {installed} is installed; rebuild it with {_SETUP}"


def _about_mpi(facts: Facts) -> Iterator[str]:
    operations = facts.horovod_operations or ()
    if "Open MPI" not in facts.versions:
        if "MPI" in operations or "Gloo" in operations:
            yield "Open MPI: not found, Gloo runs; for both, `apt-get install openmpi-bin libopenmpi-dev`, `make setup`"
        return
    if operations and "MPI" not in operations:
        yield f"horovod: built without MPI, which is here; rebuild it with {_SETUP}"
    if "mpi4py" not in facts.versions:
        yield "mpi4py: only needed to call MPI beside Horovod; `pip install mpi4py`"
