"""Where the main thread's time goes in one step: computing, our kernels and Python, Horovod's calls, waiting."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import horovod.torch as hvd
import torch

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.horovod import Horovod
from benchmarks.programs.rounds import WARM_UP, rounds
from benchmarks.programs.stopwatch import Stopwatch, label_everything
from benchmarks.workloads import WORKLOADS, Workload


def run(options: dict[str, Any]) -> dict[str, dict[str, float]]:
    """model, contenders, seconds. Returns median seconds of rank 0 by contender and label; "step" is their sum."""
    torch.set_num_threads(int(options["threads"]))
    watch = Stopwatch(time.perf_counter)
    label_everything(watch)
    workload = WORKLOADS[options["model"]]()
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in options["contenders"]}
    timed = {name: _Step(workload, name, watch, seen[name]) for name in options["contenders"]}
    rounds(timed, float(options["seconds"]))
    return {name: _medians(steps[WARM_UP:]) for name, steps in seen.items()}


class _Step:
    """One training step, in labelled pieces."""

    def __init__(self, workload: Workload, contender: str, watch: Stopwatch, seen: list[dict[str, float]]) -> None:
        rig = CONTENDERS[contender](workload)
        assert isinstance(rig, Horovod)
        self._workload, self._rig, self._watch, self._seen = workload, rig, watch, seen

    def __call__(self, number: int) -> None:
        batch = self._workload.batch(number, hvd.rank())
        rig, watch = self._rig, self._watch
        watch.clear()
        start = time.perf_counter()
        rig.optimizer.zero_grad()
        with watch("forward"):
            loss = self._workload.loss(rig.model, batch)
        with watch("backward"):
            loss.backward()
        with watch("python"):
            rig.wait()
        with watch("optimizer"), rig.optimizer.skip_synchronize():
            rig.optimizer.step()
        self._seen.append({**watch.seconds, "step": time.perf_counter() - start})


def _medians(steps: list[dict[str, float]]) -> dict[str, float]:
    labels = dict.fromkeys(label for step in steps for label in step)
    return {label: median(step.get(label, 0.0) for step in steps) for label in labels}
