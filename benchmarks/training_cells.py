"""Cells of the training benchmark: every seed of one model, optimizer and compression, whatever world they train in."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.compressions import COMPRESSIONS, lane_bits, seeded
from benchmarks.workloads.small import TASKS, Task

#: Points of a curve: each is the mean over as many steps as it takes.
POINTS = 50


@dataclass(frozen=True)
class Run:
    """One training.

    metrics: of its end, by name. losses: (steps,), the mean over all workers' batches. sent_bytes: of all steps, what
    a worker handed to allreduces, or to collectives that put as much on the wire.
    """

    metrics: dict[str, float]
    losses: np.ndarray
    sent_bytes: int


class Train(Protocol):
    """One training, of all workers."""

    def __call__(self, task: Task, optimizer_name: str, compression: Any, seed: int, steps: int) -> Run: ...


def run(cells: Sequence[dict[str, Any]], path: Path | None, train: Train) -> None:
    """Add each of ``cells`` to the document at ``path`` as soon as all its seeds are done.

    A cell has model, optimizer and compression, seeds, and the number of steps of each run. path: None where another
    rank does it.
    """
    for asked in cells:
        started = time.perf_counter()
        cell = {**asked, **_measured(asked, train)}
        if path is not None:
            cell["seconds"] = round(time.perf_counter() - started, 1)
            _add(path, cell)
            ends = {name: float(f"{np.mean(values):.4g}") for name, values in cell["metrics"].items()}
            print(f"  {cell['compression']:<16} {cell['seconds']:6.1f} s  {ends}", flush=True)


def _measured(asked: dict[str, Any], train: Train) -> dict[str, Any]:
    """The metrics by seed, the mean loss over seeds by step, and the bytes of a step over all of them."""
    compression = COMPRESSIONS[asked["compression"]]
    task = TASKS[asked["model"]].at_rate(asked["optimizer"], asked["rate"])
    runs = [train(task, asked["optimizer"], seeded(compression, seed), seed, asked["steps"]) for seed in asked["seeds"]]
    metrics = {name: [float(f"{run.metrics[name]:.6g}") for run in runs] for name in runs[0].metrics}
    bits = lane_bits(asked["compression"])
    return {
        **({"bits": bits} if bits else {}),
        "metrics": metrics,
        "curve": _curve(np.mean([run.losses for run in runs], axis=0)),
        "sent_bytes": round(sum(run.sent_bytes for run in runs) / (asked["steps"] * len(runs))),
    }


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
