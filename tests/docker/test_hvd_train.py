"""What hvd-train makes of a command line: hosts for horovodrun, and nothing else changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hvd_train(tmp_path):
    """Calls it where three nodes answer and horovodrun says how it is called; Horovod's own parser is the real one."""
    for name, lines in {
        "horovodrun": 'printf "%s|" "$@"',
        "hvd-nodes": 'printf "node1:1\\nnode2:1\\nnode3:1\\n"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HVD_NODES": "node1 node2 node3"}

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [ROOT / "docker" / "image" / "hvd-train", *arguments]
        return subprocess.run(
            command, env={**environment, **more}, capture_output=True, text=True, timeout=60, check=False
        )

    return call


@pytest.mark.parametrize(
    ("line", "hosts"),
    [
        ("-np 6 --gloo python train.py", "node1:2,node2:2,node3:2"),
        ("--num-proc=5 ./train.sh", "node1:2,node2:2,node3:1"),
        ("-np 2 python train.py", "node1:1,node2:1"),
        # The command's own options are none of ours, and an option's value is no command.
        ("-np 3 ./train.sh -H 16 -np 2", "node1:1,node2:1,node3:1"),
        ("--output-filename python_logs -np 3 ./train.sh", "node1:1,node2:1,node3:1"),
    ],
)
def test_ranks_are_spread_over_all_nodes(hvd_train, line, hosts):
    done = hvd_train(*line.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("|")[:-1] == ["-H", hosts, *line.split()]


@pytest.mark.parametrize(
    "line",
    [
        "-np 3 -H node2:3 python train.py",
        "-np 3 --hostfile=/dev/null python train.py",
        "-np 3 --min-np 2 --host-discovery-script hvd-nodes python train.py",
    ],
)
def test_who_says_where_ranks_run_is_left_alone(hvd_train, line):
    done = hvd_train(*line.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("|")[:-1] == line.split()


@pytest.mark.parametrize(("ranks", "hosts"), [(6, "node1:4,node2:2"), (12, "node1:4,node2:4,node3:4")])
def test_slots_can_be_given(hvd_train, ranks, hosts):
    assert hvd_train("-np", str(ranks), "true", HVD_SLOTS="4").stdout.split("|")[1] == hosts


def test_no_number_of_ranks_is_an_error(hvd_train):
    done = hvd_train("python", "train.py")
    assert done.returncode == 2
    assert "hvd-train: error: the following arguments are required: -np" in done.stderr


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["node1", "node1 node2", "node2"], "hvd-train: these nodes do not answer any more: node3\n"),
        (["node2 node3", "node1", ""], ""),
    ],
)
def test_a_run_that_failed_names_the_nodes_that_never_answer(hvd_train, tmp_path, answers, said):
    """answers: who answers each of the times that hvd-train asks after the run."""
    (tmp_path / "horovodrun").write_text("#!/bin/sh\nexit 3\n")
    for asked, nodes in enumerate(["node1 node2 node3", *answers]):
        (tmp_path / f"answers.{asked}").write_text("".join(f"{node}:1\n" for node in nodes.split()))
    (tmp_path / "asked").write_text("0\n")
    stub = '#!/bin/sh\ncd "$(dirname "$0")"\nread -r n <asked\necho $((n + 1)) >asked\ncat "answers.$n"\n'
    (tmp_path / "hvd-nodes").write_text(stub)
    done = hvd_train("-np", "3", "true")
    assert done.returncode == 3
    assert done.stderr == said
