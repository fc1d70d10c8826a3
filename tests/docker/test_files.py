"""Dockerfiles, scripts, the compose file and the workflow pass the linters that know them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

HADOLINT = ("hadolint", "--no-color", "--config", "docker/hadolint.yaml")
SHELLCHECK = ("shellcheck", "--external-sources")
COMPOSE = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
WORKFLOW = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
ZIZMOR = ("zizmor", "--offline", "--no-progress", "--persona", "pedantic")


def is_bash(path):
    lines = path.read_text(errors="replace").splitlines()
    return bool(lines) and lines[0] in ("#!/usr/bin/env bash", "# shellcheck shell=bash")


SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in (".ci", "bootstrap", "docker")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and is_bash(path)
)


def lint(tool, *files):
    """Run a linter as set-up installs it, from the root of the tree."""
    name, *options = tool
    executable = BIN / name
    assert executable.exists(), f"no {executable}: `make setup` installs {name}"
    command = [executable, *options, *files]
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("tool", "file"),
    [
        (HADOLINT, "docker/Dockerfile"),
        (HADOLINT, "docker/Dockerfile.gpu"),
        (COMPOSE, "docker/compose.yaml"),
        (WORKFLOW, ".github/workflows/ci.yml"),
        (ZIZMOR, ".github/workflows/ci.yml"),
        *((SHELLCHECK, script) for script in SCRIPTS),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_nothing_to_complain_about(tool, file):
    done = lint(tool, file)
    assert done.returncode == 0, done.stdout


def test_scripts_are_found_by_their_first_line():
    assert {
        ".ci/run",
        "bootstrap/horovod.sh",
        "bootstrap/install.sh",
        "bootstrap/system.sh",
        "docker/base-image",
        "docker/image/hvd-entrypoint",
        "docker/image/hvd-nodes",
        "docker/image/hvd-train",
        "docker/image/install-frameworks",
        "docker/wheels",
    } <= set(SCRIPTS)
    assert "docker/cluster" not in SCRIPTS


@pytest.mark.parametrize(
    ("tool", "file", "right", "wrong", "complaint"),
    [
        (HADOLINT, "docker/Dockerfile", "USER ", "USER root\n# ", "DL3002"),
        (HADOLINT, "docker/Dockerfile.gpu", "WORKDIR /workspace", "WORKDIR workspace", "DL3000"),
        (HADOLINT, "docker/Dockerfile.gpu", "install -d", "sudo install -d", "DL3004"),
        (SHELLCHECK, "docker/image/hvd-entrypoint", 'exec "$@"', "exec $@", "SC2068"),
        (COMPOSE, "docker/compose.yaml", "cap_drop:", "cap_drops:", "cap_drops"),
        (COMPOSE, "docker/compose.yaml", "networks: [cluster]", "networks: 1", "networks"),
        (WORKFLOW, ".github/workflows/ci.yml", "runs-on:", "run-on:", "run-on"),
        (WORKFLOW, ".github/workflows/ci.yml", "contents: read", "contents: admin", "admin"),
        (
            ZIZMOR,
            ".github/workflows/ci.yml",
            "run: make test",
            "run: make ${{ github.head_ref }}",
            "template-injection",
        ),
        (ZIZMOR, ".github/workflows/ci.yml", "permissions: {}", "permissions: write-all", "excessive-permissions"),
        (ZIZMOR, ".github/workflows/ci.yml", "@df4cb1c069e1874edd31b4311f1884172cec0e10", "@main", "unpinned-uses"),
    ],
)
def test_a_mistake_is_complained_about(tool, file, right, wrong, complaint, tmp_path):
    text = (ROOT / file).read_text()
    assert right in text
    # Below folders of the same names, which some of the linters go by.
    spoiled = tmp_path / file
    spoiled.parent.mkdir(parents=True)
    spoiled.write_text(text.replace(right, wrong, 1))
    done = lint(tool, spoiled)
    assert done.returncode != 0
    assert complaint in done.stdout


def test_the_workflow_calls_what_there_is():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    called = [command.removeprefix("make ") for command in commands if command.startswith("make ")]
    assert {"check", "test", "test-cluster"} <= set(called) <= set(targets)
    assert all((ROOT / command.split()[0]).exists() for command in commands if command.startswith("docker/"))
