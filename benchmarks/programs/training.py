"""Whole training runs of one model with one optimizer: every compression, every seed, one after the other."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import numpy as np
import torch

from benchmarks.workloads.small import TASKS, Task
from benchmarks.workloads.small.base import decayed
from hvd_gqsgd.torch import GlobalQSGD, traffic

#: What is compared: whatever a user may write as ``compression=``. A run's seed replaces GlobalQSGD's.
COMPRESSIONS: dict[str, Any] = {
    "none": hvd.Compression.none,
    "fp16": hvd.Compression.fp16,
    "gqsgd8": GlobalQSGD(bits=8),
    "gqsgd6": GlobalQSGD(bits=6),
    "gqsgd4": GlobalQSGD(bits=4),
    "gqsgd3": GlobalQSGD(bits=3),
    "gqsgd4 feedback": GlobalQSGD(bits=4, error_feedback=True),
    "gqsgd3 feedback": GlobalQSGD(bits=3, error_feedback=True),
    "gqsgd4 unrotated": GlobalQSGD(bits=4, rotation=None),
}

#: Points of a curve: each is the mean over as many steps as it takes.
POINTS = 50


def run(options: dict[str, Any]) -> None:
    """json: a document, whose list "cells" gets each of options["cells"] as soon as all its seeds are done.

    A cell has model, optimizer and compression, seeds, and the number of steps of each run.
    """
    torch.set_num_threads(1)
    for asked in options["cells"]:
        started = time.perf_counter()
        cell = {**asked, **_cell(asked)}
        if hvd.rank() == 0:
            cell["seconds"] = round(time.perf_counter() - started, 1)
            _add(Path(options["json"]), cell)
            ends = {name: float(f"{np.mean(values):.4g}") for name, values in cell["metrics"].items()}
            print(f"  {cell['compression']:<10} {cell['seconds']:6.1f} s  {ends}", flush=True)


def _cell(asked: dict[str, Any]) -> dict[str, Any]:
    """What all seeds of a cell came to: the metrics by seed, and the training loss over ranks and seeds by step."""
    task = TASKS[asked["model"]]
    metrics: dict[str, list[float]] = {metric.name: [] for metric in task.metrics}
    losses = []
    traffic.reset()
    for seed in asked["seeds"]:
        compression = COMPRESSIONS[asked["compression"]]
        if isinstance(compression, GlobalQSGD):
            compression = replace(compression, seed=seed)
        ends, by_step = _train(task, asked["optimizer"], compression, seed, asked["steps"])
        losses.append(by_step)
        for name, value in ends.items():
            metrics[name].append(float(f"{value:.6g}"))
    steps = asked["steps"] * len(asked["seeds"])
    # Horovod counts nothing where it compresses by itself.
    sent = {"sent_bytes": round(traffic.sent_bytes / steps)} if traffic.sent_bytes else {}
    bits = {"bits": compression.bits} if isinstance(compression, GlobalQSGD) else {}
    return {**bits, "metrics": metrics, "curve": _curve(np.mean(losses, axis=0)), **sent}


def _train(
    task: Task, optimizer_name: str, compression: Any, seed: int, steps: int
) -> tuple[dict[str, float], np.ndarray]:
    """The metrics of one run, and the mean loss of all ranks by step."""
    # The same on every rank: nothing has to be broadcast.
    torch.manual_seed(seed)
    model = task.model()
    optimizer = hvd.DistributedOptimizer(
        task.optimizer(optimizer_name, model.parameters()),
        named_parameters=model.named_parameters(),
        compression=compression,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: decayed((step + 1) / (steps + 1)))
    draw = torch.Generator().manual_seed(1_000_003 * seed + hvd.rank())
    losses = torch.empty(steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.loss(model, task.batch(draw))
        loss.backward()
        optimizer.step()
        schedule.step()
        losses[step] = loss.detach()
    model.eval()
    with torch.no_grad():
        ends = task.evaluate(model)
    return ends, hvd.allreduce(losses, name="losses").numpy()


def _curve(losses: np.ndarray) -> dict[str, list[float]]:
    """step: the last one of each point; loss: the mean over the point's steps."""
    parts = [part for part in np.array_split(losses, POINTS) if len(part)]
    ends = np.cumsum([len(part) for part in parts])
    return {"step": ends.tolist(), "loss": [float(f"{part.mean():.5g}") for part in parts]}


def _add(path: Path, cell: dict[str, Any]) -> None:
    document = json.loads(path.read_text())
    document["cells"].append(cell)
    whole = path.with_name(path.name + ".part")
    whole.write_text(json.dumps(document) + "\n")
    # Whoever ends this early finds the last whole document.
    whole.replace(path)
