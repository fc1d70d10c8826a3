"""Training steps of all contenders on one model, interleaved: the next contender's step follows the last one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import horovod.torch as hvd
import torch

from benchmarks.contenders import CONTENDERS, Contender, start_gloo
from benchmarks.contenders.horovod import Horovod
from benchmarks.contenders.local import Local
from benchmarks.programs.rounds import WARM_UP, in_any_round, rounds
from benchmarks.workloads import WORKLOADS, Workload
from benchmarks.workloads.base import Batch
from hvd_gqsgd.torch.rates import measure_rates

RATES_S = 8.0


def run(options: dict[str, Any]) -> dict[str, Any]:
    """models: names; contenders: names; seconds: for the rounds of one model. Returns models and cells."""
    torch.set_num_threads(int(options["threads"]))
    if any(name.startswith("ddp") for name in options["contenders"]):
        start_gloo()
    cells: list[dict[str, Any]] = []
    models: dict[str, Any] = {}
    for name in options["models"]:
        workload = WORKLOADS[name]()
        contenders = {c: CONTENDERS[c](workload) for c in options["contenders"]}
        some = next(iter(contenders.values())).bare
        # Beside the cells that they predict: what else runs here changes within minutes.
        rates = measure_rates(seconds=RATES_S)
        models[name] = {"numels": [p.numel() for p in some.parameters()], "rates": rates.to_dict()}
        _say(f"{name}: {len(contenders)} contenders")
        batch = workload.batch(0, hvd.rank())
        mean = hvd.allreduce(Local(workload).reduced_gradient(batch), name="mean gradient")
        errors = {c: _relative_error(rig, batch, mean) for c, rig in contenders.items()}
        for kind, measure in (("aggregation", _aggregations), ("step", _steps)):
            for contender, cell in measure(workload, contenders, float(options["seconds"])).items():
                cells.append({"model": name, "contender": contender, "kind": kind, **cell})
                if kind == "step":
                    cells[-1]["relative_error"] = errors[contender]
    return {"models": models, "cells": cells}


def _aggregations(workload: Workload, contenders: dict[str, Contender], seconds: float) -> dict[str, Any]:
    """The exchange alone, of the gradients that the contenders still hold."""
    able = {name: in_any_round(rig.aggregate) for name, rig in contenders.items() if isinstance(rig, Horovod)}
    return rounds(able, seconds / 2)


def _steps(workload: Workload, contenders: dict[str, Contender], seconds: float) -> dict[str, Any]:
    rank = hvd.rank()
    batches: dict[int, Any] = {}

    def stepper(rig: Contender) -> Callable[[int], float]:
        def step(number: int) -> float:
            if number not in batches:
                batches.clear()
                batches[number] = workload.batch(number, rank)
            return rig.step(batches[number])

        return step

    return rounds({name: stepper(rig) for name, rig in contenders.items()}, seconds)


def _relative_error(rig: Contender, batch: Batch, mean: torch.Tensor) -> float:
    """|g - mean|^2 / |mean|^2 of the gradient that comes out; leaves it in place, and warms up what has to be."""
    for _ in range(WARM_UP):
        reduced = rig.reduced_gradient(batch)
    return float((reduced - mean).square().sum() / mean.square().sum())


def _say(line: str) -> None:
    if hvd.rank() == 0:
        print(f"  {line}", flush=True)
