"""horovodrun as a user calls it, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def mpi_is_built() -> bool:
    import horovod.torch as hvd

    return hvd.mpi_built()


#: On CI its absence is a failure, not a skip.
needs_mpi = pytest.mark.skipif(not mpi_is_built() and not os.environ.get("CI"), reason="Horovod is built without MPI")

#: With MPI where Horovod has it.
TRANSPORTS = ["gloo", pytest.param("mpi", marks=needs_mpi)]


def horovodrun(*arguments: str | Path, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run horovodrun; stdout and stderr come back together. More ranks than cores are welcome."""
    return subprocess.run(_command(arguments), timeout=timeout, check=False, **_options(environment))


def start_horovodrun(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """``horovodrun`` for who wants to read along."""
    return subprocess.Popen(_command(arguments), **_options(environment))


def assert_passed_on_every_rank(result: subprocess.CompletedProcess[str], ranks: int) -> None:
    """``result`` is of pytest under ``horovodrun``: the same number of tests passed on each rank, none was skipped."""
    tail = result.stdout[-8000:]
    assert result.returncode == 0, tail
    closing = re.findall(r"(\d+) passed(?:, \d+ warnings?)? in", result.stdout)
    assert len(closing) == ranks, tail
    assert len(set(closing)) == 1, tail
    assert "skipped" not in result.stdout, tail


def _command(arguments: Sequence[str | Path]) -> list[str]:
    return ["horovodrun", *map(str, arguments)]


def _options(environment: dict[str, str]) -> dict[str, Any]:
    shared = {
        "OMP_NUM_THREADS": "1",
        # Open MPI's ranks spin while they wait, and starve each other where they share a core.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    return {
        "cwd": ROOT,
        "env": {**os.environ, **shared, **environment},
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
