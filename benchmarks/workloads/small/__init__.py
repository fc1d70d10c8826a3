"""Models that train in seconds, to see what an exchange does to where training ends."""

from benchmarks.workloads.small.base import Metric, Task
from benchmarks.workloads.small.digits import Digits
from benchmarks.workloads.small.gpt import TinyGPT
from benchmarks.workloads.small.linear import LeastSquares

TASKS: dict[str, Task] = {task.name: task for task in (Digits(), TinyGPT(), LeastSquares())}

__all__ = ["TASKS", "Metric", "Task"]
