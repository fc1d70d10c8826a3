"""Training across containers: it learns, every node takes part, and compression shows on the wire."""

from __future__ import annotations

import pytest
from nodes import SHARED

EPOCHS = 8


def train(cluster, example: str, *options: str, transport: str = "--gloo", ranks: int = 3) -> tuple[dict, dict]:
    """The example's report, and the bytes that each node sent meanwhile."""
    before = cluster.sent_bytes()
    command = ["python", f"examples/{example}_digits.py", "--epochs", str(EPOCHS), "--report", "/tmp/report.json"]
    done = cluster.run("-np", str(ranks), transport, *SHARED, *command, *options)
    assert done.returncode == 0, done.stdout[-6000:]
    after = cluster.sent_bytes()
    return cluster.report("/tmp/report.json"), {node: after[node] - before[node] for node in cluster.nodes}


@pytest.mark.parametrize("transport", ["--gloo", "--mpi"])
@pytest.mark.parametrize("example", ["torch", "tensorflow", "keras", "keras3"])
def test_digits_across_three_nodes(three, example, transport):
    said, sent = train(three, example, transport=transport)
    assert said["ranks"] == 3
    assert said["accuracy"] > 0.93
    steps = EPOCHS * (1347 // (3 * 32))
    # A ring of three sends 4/3 of a rank's payload; who sends less than half of that did not take part.
    for node, sent_bytes in sent.items():
        assert sent_bytes > steps * said["bytes_per_step"] * 2 / 3, f"{node} sent {sent_bytes} bytes"


def test_compression_shows_on_the_wire(make_cluster):
    two = make_cluster(2)
    dense = sum(train(two, "torch", "--compression", "none", ranks=2)[1].values())
    for bits, least in ((8, 2.5), (4, 4)):
        _, sent = train(two, "torch", "--compression", "gqsgd", "--bits", str(bits), ranks=2)
        # Whole runs, with broadcasts, ssh and what Horovod negotiates; benchmarks/containers.py counts steps alone.
        assert dense / sum(sent.values()) > least


@pytest.mark.parametrize("transport", ["--gloo", "--mpi"])
def test_more_ranks_than_nodes(three, transport):
    done = three.run("-np", "5", transport, "hostname")
    assert done.returncode == 0, done.stdout
    places = [line.rsplit(":", 1)[1] for line in done.stdout.splitlines() if "<stdout>" in line]
    assert sorted(places) == ["node1", "node1", "node2", "node2", "node3"]


def test_own_programs_are_mounted(make_cluster, tmp_path):
    tmp_path.chmod(0o755)
    # One write: Open MPI marks every piece that arrives as a line of its own.
    program = "import sys, horovod.torch as hvd\nhvd.init()\nsys.stdout.write(f'own {hvd.rank()} {hvd.size()}\\n')\n"
    (tmp_path / "own.py").write_text(program)
    done = make_cluster(2, "--mount", str(tmp_path)).run("-np", "2", "--mpi", "python", "own.py")
    assert done.returncode == 0, done.stdout
    assert "own 0 2" in done.stdout and "own 1 2" in done.stdout
