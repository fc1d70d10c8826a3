"""A cluster of containers as a user has one: docker/cluster in a process of its own, the engine beside it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
ENGINE = shlex.split(os.environ.get("ENGINE", "podman"))
#: Ranks share this machine's cores, and Open MPI's spin while they wait.
SHARED = ("env", "OMP_NUM_THREADS=1", "OMPI_MCA_mpi_yield_when_idle=1")


def engine(*arguments: str) -> str:
    done = subprocess.run([*ENGINE, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout.strip()


def cluster(*arguments: str, timeout: float = 120, name: str | None = None) -> subprocess.CompletedProcess[str]:
    """docker/cluster; stdout and stderr come back together."""
    named = ["--name", name] if name else []
    return subprocess.run(
        [ROOT / "docker" / "cluster", *named, *arguments],
        env={**os.environ, "ENGINE": shlex.join(ENGINE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


class Cluster:
    """Nodes node1, node2, ... of a cluster of its own."""

    def __init__(self, name: str, nodes: int) -> None:
        self.name = name
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.processes: set[int] = set()

    def up(self, *options: str) -> None:
        done = cluster("up", "-n", str(len(self.nodes)), *options, name=self.name)
        assert done.returncode == 0, done.stdout
        pids = (int(engine("inspect", "--format", "{{.State.Pid}}", self.container(node))) for node in self.nodes)
        self.processes = {child.pid for pid in pids for child in self._with_children(pid)}

    @staticmethod
    def _with_children(pid: int) -> list[psutil.Process]:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]

    def container(self, node: str) -> str:
        return f"{self.name}-{node}"

    def run(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return cluster("run", *arguments, name=self.name, timeout=timeout)

    def start(self, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        """``run`` in the background, what it prints in ``output``."""
        command = [ROOT / "docker" / "cluster", "--name", self.name, "run", *arguments]
        environment = {**os.environ, "ENGINE": shlex.join(ENGINE)}
        with output.open("wb") as file:
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def shell(self, node: str, *command: str) -> str:
        done = cluster("shell", node, *command, name=self.name)
        assert done.returncode == 0, f"{node}: {command}: {done.stdout}"
        return done.stdout.strip()

    def copy(self, program: Path) -> None:
        """Give every node a program, in its working directory."""
        for node in self.nodes:
            engine("cp", str(program), f"{self.container(node)}:/workspace/{program.name}")

    def report(self, path: str, node: str = "node1") -> Any:
        return json.loads(self.shell(node, "cat", path))

    def sent_bytes(self) -> dict[str, int]:
        """What has left each node by its interface, headers included."""
        return {node: int(self.shell(node, "cat", "/sys/class/net/eth0/statistics/tx_bytes")) for node in self.nodes}

    def training_processes(self, node: str) -> str:
        """What a run has started there and not ended."""
        return self.shell(node, "bash", "-c", "ps -o args= -C python,horovodrun,mpirun,orted || true")

    def down(self) -> None:
        done = cluster("down", name=self.name)
        assert done.returncode == 0, done.stdout


def left_overs(of: Cluster) -> dict[str, list[str]]:
    """Everything that is there of a cluster: containers, networks, volumes, processes."""
    listed = {
        "containers": engine("ps", "-a", "--format", "{{.Names}}"),
        "networks": engine("network", "ls", "--format", "{{.Name}}"),
        "volumes": engine("volume", "ls", "--format", "{{.Name}}"),
    }
    found = {kind: [line for line in lines.split() if of.name in line] for kind, lines in listed.items()}
    commands = {p.pid: " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])}
    # The engine's own have the cluster's name in their command lines.
    found["processes"] = [c for pid, c in commands.items() if f"{of.name}-node" in c or pid in of.processes]
    return {kind: lines for kind, lines in found.items() if lines}
