"""Bytes on the wire between containers, by their interfaces' own counters: ``python -m benchmarks.containers``."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
CONTENDERS = ("hvd none", "hvd fp16", "gqsgd8", "gqsgd4")


def main() -> None:
    arguments = _arguments()
    print(f"{'nodes':>5} {'model':>6} {'contender':>10} {'MB a step':>10} {'none /':>7} {'ms a step':>10}")
    for nodes in arguments.nodes:
        measured = _measure(nodes, arguments)
        steps = [cell for cell in measured["cells"] if cell["kind"] == "step"]
        dense = {cell["model"]: cell["sent_bytes"] for cell in steps if cell["contender"] == "hvd none"}
        for cell in steps:
            ratio = dense[cell["model"]] / cell["sent_bytes"]
            print(
                f"{nodes:>5} {cell['model']:>6} {cell['contender']:>10} {cell['sent_bytes'] / 1e6:>10.2f} "
                f"{ratio:>6.2f}x {1e3 * median(cell['seconds']):>10.1f}",
                flush=True,
            )


def _measure(nodes: int, arguments: argparse.Namespace) -> Any:
    """What benchmarks.programs.steps returns, one rank in each of ``nodes`` containers; sent bytes are the first's."""
    options = {"models": arguments.models, "contenders": CONTENDERS, "seconds": arguments.seconds, "threads": 1}
    program = ["python", "-m", "benchmarks.programs", "steps", json.dumps(options), "/tmp/result.json"]
    # The containers share this machine's cores.
    shared = ["env", "OMP_NUM_THREADS=1", "OMPI_MCA_mpi_yield_when_idle=1", "GQSGD_INTERFACE=eth0"]
    _cluster("up", "-n", str(nodes), "--", "-v", f"{ROOT}/benchmarks:/workspace/benchmarks:ro")
    try:
        _cluster("run", "-np", str(nodes), "--mpi", *shared, *program)
        return json.loads(_cluster("shell", "node1", "cat", "/tmp/result.json"))
    finally:
        _cluster("down")


def _cluster(*arguments: str) -> str:
    command = [ROOT / "docker" / "cluster", "--name", "hvd-gqsgd-benchmark", *arguments]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"benchmarks: docker/cluster {arguments[0]} ended with status {done.returncode}:\n{done.stdout}"
        )
    return done.stdout


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers", description=__doc__)
    parser.add_argument("--nodes", nargs="+", type=int, default=[2], help="numbers of containers")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "gpt"), default=["mlp"])
    parser.add_argument("--seconds", type=float, default=10, help="for the steps of one model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
