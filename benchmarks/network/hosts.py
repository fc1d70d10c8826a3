"""Hosts as network namespaces, each with one link to a switch, shaped in both directions.

The switch is a bridge in a namespace of its own, so nothing in the machine's own network changes and no address can
collide with it. Needs root, iproute2 and the kernel's tbf queue, as in any Debian or Ubuntu.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

#: Links by name: bits per second; None is this machine's own memory, without hosts.
LINKS: dict[str, float | None] = {"100mbit": 1e8, "1gbit": 1e9, "10gbit": 1e10, "loopback": None}

SUBNET = "10.213.77"


@dataclass(frozen=True)
class Host:
    """One namespace and its address on the switch."""

    namespace: str
    address: str


class Hosts:
    """``count`` hosts whose links carry ``bits_per_second`` each way; they exist inside of the with statement."""

    def __init__(self, count: int, bits_per_second: float) -> None:
        require_network_tools()
        self._rate = f"{bits_per_second:.0f}bit"
        self._switch = f"gqsgd{os.getpid()}"
        self.hosts = [Host(f"{self._switch}h{i}", f"{SUBNET}.{i}") for i in range(1, count + 1)]

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        self._remove()

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for number, host in enumerate(self.hosts, start=1):
            port = f"port{number}"
            _ip("netns", "add", host.namespace)
            _ip(
                "-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace
            )
            _ip("-n", self._switch, "link", "set", port, "master", "switch", "up")
            _ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.namespace, "link", "set", "eth0", "up")
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            # The one that every Linux has and allows here. BBR, which some machines are set to, takes pauses between
            # exchanges for a slower link, and the same transfer then takes 1 or 1.5 times as long by chance.
            _run("ip", "netns", "exec", host.namespace, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")
            self._shape(host.namespace, "eth0")
            self._shape(self._switch, port)

    def _shape(self, namespace: str, device: str) -> None:
        # A queue shapes what leaves a device, so each link has one at both ends. The queue is long enough that TCP
        # fills the link and the burst large enough for 10 Gbit/s at the kernel's clock.
        queue = ("root", "tbf", "rate", self._rate, "burst", "256kb", "latency", "100ms")
        _run("tc", "-n", namespace, "qdisc", "add", "dev", device, *queue)

    def _remove(self) -> None:
        for namespace in (*(host.namespace for host in self.hosts), self._switch):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", namespace)


def require_network_tools() -> None:
    """Exit with what to do, where hosts cannot be made."""
    if os.geteuid() != 0:
        raise SystemExit("benchmarks: shaped links need root; run with sudo, or choose --links loopback")
    missing = [tool for tool in ("ip", "tc", "unshare", "mpirun") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(
            f"benchmarks: {', '.join(missing)} not found; `apt-get install iproute2 util-linux openmpi-bin`"
        )


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
