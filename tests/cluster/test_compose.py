"""docker/compose.yaml, with docker's compose or podman's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nodes import ENGINE, ROOT, engine


@pytest.fixture
def compose(image, tmp_path):
    """Calls compose on our file; what it printed, and nothing of its cluster is left in the end."""
    podmans = [str(Path(sys.executable).with_name("podman-compose")), *(f"--podman-args={o}" for o in ENGINE[1:])]
    words = podmans if "podman" in engine("--version") else [*ENGINE, "compose"]
    # As docker/cluster does with options: podman asks for more than some machines let their users have.
    limits = tmp_path / "containers.conf"
    limits.write_text('[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n')
    environment = {**os.environ, "NODES": "3", "CONTAINERS_CONF": str(limits)}

    def call(*arguments: str) -> str:
        command = [*words, "-f", str(ROOT / "docker" / "compose.yaml"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield call
    call("down", "-v")
    for listed in (["ps", "-a", "--format", "{{.Names}}"], ["network", "ls"], ["volume", "ls"]):
        assert not re.search(r"hvd-gqsgd([_-](node|keys|cluster|workspace))", engine(*listed))


def test_ranks_on_all_nodes(compose):
    compose("up", "-d")
    said = compose("exec", "-T", "node", "hvd-train", "-np", "3", "--gloo", "hostname")
    assert len({line.split(":")[-1] for line in said.splitlines() if "<stdout>" in line}) == 3
    training = ["env", "OMP_NUM_THREADS=1", "python", "examples/torch_digits.py", "--epochs", "8"]
    said = compose("exec", "-T", "node", "hvd-train", "-np", "3", "--mpi", *training)
    assert "gqsgd 8 bits: accuracy 0.9" in said
