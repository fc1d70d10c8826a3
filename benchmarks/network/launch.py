"""Runs one of benchmarks.programs on every host under mpirun and brings rank 0's results back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.network.hosts import LINKS, SUBNET, Hosts

ROOT = Path(__file__).parents[2]
MPI_LIMIT_S = 3600


def launch(program: str, link: str, hosts: int, options: dict[str, Any]) -> Any:
    """What ``benchmarks.programs.<program>`` returns on rank 0, one rank on each of ``hosts`` hosts.

    link: a key of LINKS; "loopback" runs all ranks on this machine, with whatever transport MPI chooses.
    options: given to the program on every rank, as JSON.
    """
    with tempfile.TemporaryDirectory(prefix="gqsgd") as folder:
        result = Path(folder) / "result.json"
        arguments = [sys.executable, "-m", "benchmarks.programs", program, json.dumps(options), str(result)]
        rate = LINKS[link]
        if rate is None:
            _run(["mpirun", *_common(), "-np", str(hosts), *arguments], _environment("lo", "127.0.0.1"))
        else:
            with Hosts(hosts, rate) as network:
                _run(_between(network) + arguments, _environment("eth0", network.hosts[0].address) | _map(network))
        return json.loads(result.read_text())


def _between(network: Hosts) -> list[str]:
    subnet = f"{SUBNET}.0/24"
    first = network.hosts[0].namespace
    return [
        *("ip", "netns", "exec", first, "unshare", "--uts", "/bin/sh", "-c", f'hostname {first}; exec "$@"', "sh"),
        *("mpirun", *_common(), "-np", str(len(network.hosts))),
        *("-H", ",".join(host.address for host in network.hosts)),
        *("-mca", "plm_rsh_agent", str(Path(__file__).with_name("enter.sh"))),
        *("-mca", "btl", "self,tcp", "-mca", "btl_tcp_if_include", subnet, "-mca", "oob_tcp_if_include", subnet),
    ]


def _common() -> list[str]:
    # Hosts share this machine's cores, so nothing may be bound to a core and nobody may spin.
    exported = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "GQSGD_INTERFACE", "GQSGD_FIRST_HOST", "HVD_GQSGD_KERNELS")
    return [
        *("--allow-run-as-root", "--oversubscribe", "-bind-to", "none", "-mca", "mpi_yield_when_idle", "1"),
        *(part for name in exported for part in ("-x", name)),
    ]


def _environment(interface: str, first: str) -> dict[str, str]:
    environment = {
        "OMP_NUM_THREADS": "1",
        "HVD_GQSGD_KERNELS": "",
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GQSGD_INTERFACE": interface,
        "GQSGD_FIRST_HOST": first,
    }
    return environment


def _map(network: Hosts) -> dict[str, str]:
    return {"HOSTS": " ".join(f"{host.address}={host.namespace}" for host in network.hosts)}


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=MPI_LIMIT_S, check=False
    )
    if done.returncode:
        raise SystemExit(f"benchmarks: mpirun ended with status {done.returncode}; its output is above")
