"""Several hosts on one Linux machine: network namespaces on a switch, links of a given rate, mpirun between them."""

from benchmarks.network.hosts import LINKS, Hosts
from benchmarks.network.launch import launch

__all__ = ["LINKS", "Hosts", "launch"]
