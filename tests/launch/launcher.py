"""horovodrun as a user calls it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def mpi_is_built() -> bool:
    import horovod.torch as hvd

    return hvd.mpi_built()


#: With MPI where Horovod has it. On CI its absence is a failure, not a skip.
TRANSPORTS = [
    "gloo",
    pytest.param(
        "mpi",
        marks=pytest.mark.skipif(
            not mpi_is_built() and not os.environ.get("CI"), reason="Horovod is built without MPI"
        ),
    ),
]


def horovodrun(*arguments: str | Path, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run horovodrun; stdout and stderr come back together. More ranks than cores are welcome."""
    shared = {
        "OMP_NUM_THREADS": "1",
        # Open MPI's ranks spin while they wait, and starve each other where they share a core.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        ["horovodrun", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **shared, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
