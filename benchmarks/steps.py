"""Steps and exchanges of every contender, by model, link and number of hosts: ``python -m benchmarks.steps``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.network import LINKS, launch
from hvd_gqsgd.costs.check import FORMAT

MODELS = ("mlp", "cnn", "gpt")
CONTENDERS = (
    *("local", "hvd none", "hvd fp16", "gqsgd8", "gqsgd6", "gqsgd4"),
    *("gqsgd8 unrotated", "gqsgd4 unrotated"),
    *("gqsgd8 two-phase", "gqsgd4 two-phase", "exponential8", "exponential4", "dqsgd4", "marsit100", "gradiveq"),
    "gradiveq 512",
    *("ddp none", "ddp fp16", "ddp powersgd4"),
)


def main() -> None:
    arguments = _arguments()
    results: dict[str, Any] = {"format": FORMAT, **context(), "runs": []}
    for hosts in arguments.hosts:
        for link in arguments.links:
            print(f"{hosts} hosts, {link}", flush=True)
            options = {
                "models": arguments.models,
                "contenders": arguments.contenders,
                "seconds": arguments.seconds,
                "threads": arguments.threads,
            }
            measured = launch("steps", link, hosts, options)
            run = {"link": link, "bits_per_second": LINKS[link], "hosts": hosts, "threads": arguments.threads}
            results["runs"].append(run | measured)
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(results) + "\n")


def context() -> dict[str, Any]:
    """When, where and by which command something was measured."""
    command = "python -m benchmarks." + Path(sys.argv[0]).stem
    return {
        "command": shlex.join([*command.split(), *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "versions": {name: metadata.version(name) for name in ("torch", "horovod", "numpy", "hvd_gqsgd")},
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--links", nargs="+", choices=LINKS, default=["1gbit"], metavar="LINK", help=" ".join(LINKS))
    parser.add_argument("--hosts", nargs="+", type=int, default=[2], help="numbers of hosts")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=60, help="for the steps of one model on one link")
    parser.add_argument("--threads", type=int, default=1, help="of each rank; hosts share this machine's cores")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/steps.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
