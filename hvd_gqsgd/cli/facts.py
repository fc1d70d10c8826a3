"""What is installed and built on this machine, found out without starting TensorFlow."""

from __future__ import annotations

import importlib
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import hvd_gqsgd
from hvd_gqsgd.compat import FRAMEWORKS

#: What the table calls a package, and the distributions that may bring it.
DISTRIBUTIONS = {
    "numpy": ("numpy",),
    "torch": ("torch",),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-cpu-aws"),
    "tf_keras": ("tf_keras",),
    "horovod": ("horovod",),
    "mpi4py": ("mpi4py",),
}
#: Horovod's names for the frameworks in the metadata.json that its build leaves.
_HOROVOD_NAMES = {"torch": "pytorch", "tensorflow": "tensorflow"}
_OPERATIONS = ("MPI", "Gloo", "NCCL")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One machine, as far as training with this package is concerned. Absent is: not a key, or None.

    operators_built: TensorFlow's, around the compiled kernels.
    """

    versions: Mapping[str, str]
    front_ends: frozenset[str] = frozenset()
    horovod_built_for: Mapping[str, str] = field(default_factory=dict)
    horovod_operations: tuple[str, ...] | None = None
    horovod_error: str | None = None
    operators_built: bool = False
    kernels: Mapping[str, str] | None = None
    kernels_error: str | None = None


def collect() -> Facts:
    """The facts about this process's Python and machine."""
    built_for = _horovod_built_for()
    operations, horovod_error = _horovod_operations(built_for)
    kernels, kernels_error = _kernels()
    return Facts(
        versions=_versions(),
        front_ends=frozenset(name for name in FRAMEWORKS if find_spec(f"hvd_gqsgd.{name}")),
        horovod_built_for=built_for,
        horovod_operations=operations,
        horovod_error=horovod_error,
        operators_built=_operators_built(),
        kernels=kernels,
        kernels_error=kernels_error,
    )


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "hvd_gqsgd": hvd_gqsgd.__version__}
    for name, distributions in DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                found[name] = metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
            break
    open_mpi = _open_mpi()
    return found | ({"Open MPI": open_mpi} if open_mpi else {})


def _open_mpi() -> str | None:
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        return None
    said = subprocess.run([mpirun, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\(Open MPI\) (\S+)", said)
    return version.group(1) if version else None


def _horovod_built_for() -> dict[str, str]:
    """Frameworks whose extension is there, with the version that it was compiled against."""
    spec = find_spec("horovod")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent
    try:
        said = json.loads((folder / "metadata.json").read_text())
    except (OSError, ValueError):
        said = {}
    return {
        name: str(said.get(_HOROVOD_NAMES[name], "unknown"))
        for name in FRAMEWORKS
        if any((folder / name).glob("mpi_lib*.so"))
    }


def _horovod_operations(built_for: Mapping[str, str]) -> tuple[tuple[str, ...] | None, str | None]:
    """What Horovod can reduce with, as its PyTorch module says; (None, why not) when that does not load."""
    if "torch" not in built_for or find_spec("torch") is None:
        return None, None
    try:
        module = importlib.import_module("horovod.torch")
    except Exception as error:  # A missing libmpi, another torch's symbols: the doctor reports and does not die.
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return tuple(name for name in _OPERATIONS if getattr(module, f"{name.lower()}_built")()), None


def _operators_built() -> bool:
    # By the file: importing it would start TensorFlow.
    folder = Path(hvd_gqsgd.__file__).parent / "tensorflow"
    return any((folder / f"_ops{suffix}").exists() for suffix in EXTENSION_SUFFIXES)


def _kernels() -> tuple[Mapping[str, str] | None, str | None]:
    try:
        return importlib.import_module("hvd_gqsgd.kernels").describe(), None
    except Exception as error:  # As above: whatever stops the kernels is what has to be shown.
        return None, " ".join(str(error).split())
