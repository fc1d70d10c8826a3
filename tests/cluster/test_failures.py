"""A node that goes away in the middle of a run: the others end, soon and with words, or go on without it."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from nodes import SHARED, cluster, engine

ENDLESS = Path(__file__).parent / "programs" / "endless.py"
MINUTE_S = 60


def wait_for(output: Path, pattern: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not re.search(pattern, output.read_text(errors="replace")):
        assert process.poll() is None, output.read_text(errors="replace")[-6000:]
        assert time.monotonic() < deadline, f"no {pattern!r} in: {output.read_text(errors='replace')[-6000:]}"
        time.sleep(0.2)


def wait_for_end(process: subprocess.Popen[bytes], output: Path) -> str:
    try:
        process.wait(MINUTE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"still running after a minute: {output.read_text(errors='replace')[-6000:]}")
    return output.read_text(errors="replace")


def train_endlessly(three, transport: str, output: Path) -> subprocess.Popen[bytes]:
    three.copy(ENDLESS)
    process = three.start("-np", "3", transport, *SHARED, "python", "endless.py", output=output)
    wait_for(output, r"rank \d of 3 on node3: step 40", process)
    assert all("endless.py" in three.training_processes(node) for node in three.nodes)
    return process


def assert_survivors_ended(three, said: str, transport: str) -> None:
    assert "hvd-train: these nodes do not answer any more: node3" in said
    # Which of its messages Open MPI prints depends on what it notices first: its daemon or the connection.
    words = {"--gloo": "Horovod detected that one or more processes exited", "--mpi": "ORTE"}
    assert words[transport] in said
    for node in ("node1", "node2"):
        assert three.training_processes(node) == ""


@pytest.mark.parametrize("transport", ["--gloo", "--mpi"])
def test_a_killed_node_ends_the_run_within_a_minute(three, transport, tmp_path):
    output = tmp_path / "run.log"
    process = train_endlessly(three, transport, output)
    engine("kill", "--signal", "KILL", three.container("node3"))
    said = wait_for_end(process, output)
    assert process.returncode != 0
    assert_survivors_ended(three, said, transport)


@pytest.mark.parametrize("transport", ["--gloo", "--mpi"])
def test_a_node_cut_off_without_a_word_ends_the_run_within_a_minute(three, transport, tmp_path):
    output = tmp_path / "run.log"
    process = train_endlessly(three, transport, output)
    # No connection is closed: packets just stop coming.
    engine("network", "disconnect", "-f", three.name, three.container("node3"))
    said = wait_for_end(process, output)
    assert process.returncode != 0
    assert_survivors_ended(three, said, transport)


@pytest.mark.parametrize("transport", ["--gloo", "--mpi"])
def test_an_interrupt_ends_the_run_on_every_node(three, transport, tmp_path):
    output = tmp_path / "run.log"
    process = train_endlessly(three, transport, output)
    process.send_signal(signal.SIGINT)
    wait_for_end(process, output)
    assert process.returncode == 130
    deadline = time.monotonic() + MINUTE_S
    while any(left := [three.training_processes(node) for node in three.nodes]):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


def test_an_elastic_run_goes_on_without_a_killed_node(three, tmp_path):
    output = tmp_path / "run.log"
    process = three.start(
        *("-np", "3", "--min-np", "2", "--max-np", "3", "--host-discovery-script", "hvd-nodes"),
        *(*SHARED, "python", "examples/torch_elastic_digits.py", "--epochs", "60"),
        output=output,
    )
    wait_for(output, r"world: 3 ranks", process)
    wait_for(output, r" [5-9]/60 ", process)
    engine("kill", "--signal", "KILL", three.container("node3"))
    wait_for(output, r"world: 2 ranks", process)
    assert process.wait(240) == 0, output.read_text(errors="replace")[-6000:]
    accuracy = re.search(r"accuracy (0\.\d+)", output.read_text(errors="replace"))
    assert accuracy and float(accuracy.group(1)) > 0.93


def test_nodes_that_are_gone_are_named(three):
    engine("kill", "--signal", "KILL", three.container("node2"))
    assert three.shell("node1", "hvd-nodes").split() == ["node1:1", "node3:1"]


def test_no_cluster_is_an_error_that_says_what_to_do():
    for verb in (["run", "-np", "2", "true"], ["shell", "node1"], ["logs"]):
        done = cluster(*verb, name="hvd-gqsgd-never-made")
        assert done.returncode == 1
        assert "no cluster 'hvd-gqsgd-never-made' is up; `docker/cluster up -n 4` starts one" in done.stdout
