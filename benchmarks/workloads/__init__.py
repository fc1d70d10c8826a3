"""The models that are trained, on data that is on every machine."""

from benchmarks.workloads.base import Workload
from benchmarks.workloads.cnn import ResidualNet
from benchmarks.workloads.gpt import SmallGPT
from benchmarks.workloads.mlp import Perceptron

WORKLOADS: dict[str, type[Workload]] = {w.name: w for w in (Perceptron, ResidualNet, SmallGPT)}

__all__ = ["WORKLOADS", "Workload"]
