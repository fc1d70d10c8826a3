"""Block norms, encode and decode: the specification, and faster code that gives the same bits.

    layout      where each tensor of a bucket finds its norms and words
    base        the interface: three verbs
    reference   the specification, in NumPy
    compiled    C++ for the processor's instruction set (csrc/)

``select()`` takes the best compiled kernels, or what the environment variable HVD_GQSGD_KERNELS names; there is no
silent fallback, and ``describe()`` says what runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.kernels.reference import ReferenceKernels

ENVIRONMENT = "HVD_GQSGD_KERNELS"
CHOICES = (*compiled.ISAS, ReferenceKernels.name)


def available() -> list[str]:
    """Names of the kernels that run here, best first, "reference" last; that alone where nothing is compiled."""
    built = compiled.runnable() if compiled.library_path().exists() else []
    return [*built, ReferenceKernels.name]


def forced() -> str | None:
    """What the environment forces; None where it leaves the choice. Raises SettingsError for an unknown name."""
    name = os.environ.get(ENVIRONMENT) or None
    if name is not None and name not in CHOICES:
        raise SettingsError(f"{ENVIRONMENT}={name!r}: expected one of {', '.join(CHOICES)}; or unset it for the best")
    return name


def select(
    address: Callable[[Buffer], int] = compiled.address_of_array,
    as_array: Callable[[Any], np.ndarray] = np.asarray,
    threads: Callable[[], int] | int = 0,
) -> Kernels:
    """The kernels to use, for buffers that ``address`` and ``as_array`` understand.

    Raises KernelsMissingError where the library is not built or a forced instruction set does not run here.
    """
    name = forced()
    if name == ReferenceKernels.name:
        return ReferenceKernels(as_array)
    return compiled.CompiledKernels(address, name, threads)


def describe() -> dict[str, str]:
    """What ``select()`` gives and why: kernels, chosen or forced, threads, library. Raises as ``select``."""
    name = forced()
    why = f"forced by {ENVIRONMENT}" if name else "best of " + ", ".join(available())
    if name == ReferenceKernels.name:
        return {"kernels": name, "why": why, "threads": "1", "library": "none: NumPy"}
    kernels = compiled.CompiledKernels(isa=name)
    library = str(compiled.library_path())
    return {"kernels": kernels.name, "why": why, "threads": str(compiled.default_threads()), "library": library}
