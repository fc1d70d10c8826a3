"""What compression does to where training ends: ``python -m benchmarks.training``.

Real Horovod, all ranks on this machine, or with ``--world N`` that many workers in one process; small models, trained
from several seeds with every compression. Within a seed all compressions start from the same parameters and see the
same batches, at rates tuned without compression.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import loopback_training, training_cells
from benchmarks.compressions import COMPRESSIONS, RATES, settings_of
from benchmarks.network import launch
from benchmarks.steps import context
from benchmarks.training_plot import draw
from benchmarks.training_table import tables
from benchmarks.training_worlds import LOOPBACK, REAL, World, world_of
from benchmarks.workloads.small import TASKS
from benchmarks.workloads.small.base import OPTIMIZERS
from hvd_gqsgd.schemes import Scheme


def main() -> None:
    arguments = _arguments()
    world = World(arguments.ranks, REAL) if arguments.world is None else World(arguments.world, LOOPBACK)
    arguments.compressions = list(_fitting(arguments.compressions, world))
    document = _start(arguments)
    _save(arguments.json, document)
    for model in arguments.models:
        for optimizer in arguments.optimizers:
            _train(arguments, world, model, optimizer)
    document = json.loads(arguments.json.read_text())
    for line in tables(document):
        print(line)
    if arguments.plots is not None:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        draw(document, arguments.plots / "training.png")
        print(f"wrote {arguments.plots / 'training.png'}")


def _fitting(compressions: Iterable[str], world: World) -> Iterator[str]:
    """Those that can serve the world; of the others it prints why they can't."""
    for name in compressions:
        scheme = COMPRESSIONS[name]
        problem = scheme.misfit(world.ranks) if isinstance(scheme, Scheme) else ""
        if problem:
            print(f"left out: {name}: {problem}", flush=True)
        else:
            yield name


def _start(arguments: argparse.Namespace) -> dict[str, Any]:
    """A document without cells, or with ``--continue`` the one that is there, under today's date."""
    models = {name: _about(name) for name in arguments.models}
    document: dict[str, Any] = {**context(), "earlier": [], "models": models, "cells": []}
    if arguments.go_on and arguments.json.exists():
        before = json.loads(arguments.json.read_text())
        document["earlier"] = [*before["earlier"], {"command": before["command"], "date": before["date"]}]
        document["models"] = before["models"] | models
        document["cells"] = [cell | {"world": world_of(cell).__dict__} for cell in before["cells"]]
    return document


def _about(name: str) -> dict[str, Any]:
    task = TASKS[name]
    metrics = [{"name": m.name, "higher_is_better": m.higher_is_better} for m in task.metrics]
    numels = [p.numel() for p in task.model().parameters()]
    references = {what: float(f"{value:.6g}") for what, value in task.references().items()}
    return {"metrics": metrics, "references": references, "numels": numels}


def _train(arguments: argparse.Namespace, world: World, model: str, optimizer: str) -> None:
    """Add the cells of all compressions to the document, without those that it has."""
    document = json.loads(arguments.json.read_text())
    task = TASKS[model]
    asked = [
        {
            "model": model,
            "optimizer": optimizer,
            "compression": compression,
            "settings": settings_of(compression),
            "world": world.__dict__,
            "seeds": list(range(arguments.seeds)),
            "steps": max(1, round(task.steps * arguments.steps_scale)),
            "rate": task.rates[optimizer] * arguments.rate_scale * RATES.get(compression, 1.0),
        }
        for compression in arguments.compressions
    ]
    missing = [cell for cell in asked if not any(cell.items() <= done.items() for done in document["cells"])]
    print(f"{model}, {optimizer}, {world}: {len(missing)} compressions, {arguments.seeds} seeds", flush=True)
    if not missing:
        return
    keys = ("model", "optimizer", "compression", "world")
    replaced = [[cell[key] for key in keys] for cell in missing]
    document["cells"] = [done for done in document["cells"] if [done[key] for key in keys] not in replaced]
    _save(arguments.json, document)
    if world.kind == LOOPBACK:
        torch.set_num_threads(1)
        training_cells.run(missing, arguments.json, partial(loopback_training.train, workers=world.ranks))
    else:
        launch("training", "loopback", world.ranks, {"cells": missing, "json": str(arguments.json.absolute())})


def _save(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--compressions", nargs="+", choices=COMPRESSIONS, default=list(COMPRESSIONS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each cell")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="times the steps of each model")
    worlds = parser.add_mutually_exclusive_group()
    parser.add_argument("--rate-scale", type=float, default=1.0, help="times the rates that were tuned on two ranks")
    worlds.add_argument("--ranks", type=int, default=2, help="of real Horovod, on this machine")
    worlds.add_argument("--world", type=int, metavar="N", help="N workers in one process instead: a loopback world")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--plots", type=Path, help="folder for training.png")
    parser.add_argument(
        "--continue", dest="go_on", action="store_true", help="keep the file's cells; run only what it lacks"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
