"""hvd.init(comm=...): groups of ranks that mpi4py has made of one MPI job, each with a compression of its own."""

import json
import re
import sys
from pathlib import Path

import pytest
from launcher import ROOT, assert_passed_on_every_rank, horovodrun, needs_mpi

PROGRAMS = Path(__file__).parent / "programs"
EXAMPLE = ROOT / "examples" / "mpi4py_groups.py"


@needs_mpi
@pytest.mark.timeout(400)
@pytest.mark.parametrize("ranks", [3, 4])  # a pair and a rank that is alone; two pairs
@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_groups_do_not_notice_each_other(framework, ranks):
    tests = [PROGRAMS / f"mpi4py_{framework}.py", "-q", "-x", "--color=no", "-p", "no:cacheprovider", "--timeout=120"]
    command = [sys.executable, "-m", "pytest", *tests]
    result = horovodrun("-np", str(ranks), "--mpi", *command, timeout=380, PYTHONPATH=str(PROGRAMS))
    assert_passed_on_every_rank(result, ranks)


@needs_mpi
def test_the_example_finds_the_better_learning_rate(tmp_path):
    report = tmp_path / "report.json"
    example = [sys.executable, EXAMPLE, "--epochs", "8", "--bits", "4", "--report", report]
    result = horovodrun("-np", "4", "--mpi", *example, timeout=250)
    assert result.returncode == 0, result.stdout[-4000:]
    for rate in ("0.02", "0.002"):
        assert re.search(rf"learning rate {rate}: accuracy 0\.\d+ on 2 ranks", result.stdout)
    assert "learning rate 0.02 was best" in result.stdout
    said = json.loads(report.read_text())
    assert said["ranks"] == 2
    assert said["accuracy"] > 0.95
    assert said["uncompressed_bytes_per_step"] / said["bytes_per_step"] > 7.5


def test_the_example_says_that_gloo_has_no_groups():
    result = horovodrun("-np", "2", "--gloo", sys.executable, EXAMPLE, timeout=120)
    assert result.returncode != 0
    assert "expected Horovod's size to be 1, got 2; start this with horovodrun --mpi" in result.stdout
