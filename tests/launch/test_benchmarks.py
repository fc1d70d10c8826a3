"""The benchmarks run: real hosts in namespaces, real links, every kind of contender; and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENDERS = ("local", "hvd none", "hvd fp16", "gqsgd8", "gqsgd4", "ddp none", "ddp powersgd4")


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    # A copy of the environment that Python knows: MPI adds to this process's own, and mpirun would take itself for
    # a part of that job.
    environment = dict(os.environ)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def namespaces() -> list[str]:
    lines = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if line.startswith("gqsgd")]


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    path = tmp_path_factory.mktemp("benchmarks") / "steps.json"
    run(
        *("benchmarks.steps", "--links", "1gbit", "--models", "cnn", "--seconds", "0"),
        *("--contenders", *CONTENDERS, "--json", str(path)),
    )
    assert namespaces() == []
    return path


def test_steps_between_hosts(measured):
    cells = json.loads(measured.read_text())["runs"][0]["cells"]
    steps = {cell["contender"]: cell for cell in cells if cell["kind"] == "step"}
    assert set(steps) == set(CONTENDERS)
    assert {cell["contender"] for cell in cells if cell["kind"] == "aggregation"} == set(CONTENDERS[1:5])
    for cell in cells:
        assert len(cell["seconds"]) >= 3 and min(cell["seconds"]) > 0
    # What left the host's interface, not what somebody meant to send; small tensors stay float32.
    sent = {name: cell["sent_bytes"] for name, cell in steps.items()}
    assert sent["gqsgd4"] < sent["gqsgd8"] < 0.35 * sent["hvd none"] < 0.7 * sent["hvd fp16"] * 1.1
    assert sent["local"] < 0.01 * sent["hvd none"]
    # All contenders begin with the same parameters, and see the same batches.
    assert len({cell["losses"][0] for name, cell in steps.items()}) == 1
    errors = {name: cell["relative_error"] for name, cell in steps.items()}
    assert errors["hvd none"] < 1e-12 < errors["hvd fp16"] < errors["gqsgd8"] < errors["gqsgd4"] < errors["local"]


def test_report_and_plots(measured, tmp_path):
    printed = run("benchmarks.report", str(measured), "--plots", str(tmp_path))
    assert "cnn, 1gbit, 2 hosts: step" in printed
    for name in CONTENDERS:
        assert f"\n{name} " in printed
    for name in ("steps", "traffic", "error"):
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_exchange_and_profile():
    exchange = run("benchmarks.exchange", "--links", "loopback", "--model", "cnn", "--seconds", "0")
    assert "loopback    8     8 " in exchange
    profile = run("benchmarks.profile", "--links", "loopback", "--model", "cnn", "--seconds", "0")
    line = next(line for line in profile.splitlines() if "gqsgd8" in line).split()
    assert all(float(ms) > 0 for ms in line[2:])


def test_hosts_that_cannot_be_made_are_said():
    if os.geteuid() != 0:
        pytest.skip("needs root to lack a tool and not the rights")
    environment = {**os.environ, "PATH": "/nonexistent"}
    command = [sys.executable, "-m", "benchmarks.exchange", "--links", "1gbit"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ip, tc, unshare, mpirun not found" in done.stderr
