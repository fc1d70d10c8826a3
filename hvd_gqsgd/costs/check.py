"""Predictions beside what a benchmark measured in the same run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from hvd_gqsgd.costs.choices import FP16, NONE, Choice
from hvd_gqsgd.costs.model import aggregation_seconds, step_seconds
from hvd_gqsgd.costs.rates import Rates
from hvd_gqsgd.errors import SettingsError

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One contender on one model in one run: predicted and measured seconds, the latter a median."""

    link: str
    model: str
    contender: str
    kind: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """|predicted - measured| / measured."""
        return abs(self.predicted_s - self.measured_s) / self.measured_s


def cells(results: Mapping[str, Any], name: str = "results") -> list[Cell]:
    """Every cell of a benchmark's results that the model predicts. Raises SettingsError for another format.

    Of kind "aggregation", and of kind "step" where the same run has the model's computation alone: kind "compute", or
    the contender "local". "rates" are a run's, or a model's own.
    """
    found = results.get("format") if isinstance(results, Mapping) else type(results).__name__
    if found != FORMAT:
        raise SettingsError(
            f'{name}: expected a benchmark\'s results with "format": {FORMAT}, got {found!r}; '
            "pass the JSON file that the benchmark wrote"
        )
    try:
        return [cell for run in results["runs"] for cell in _of_run(run)]
    except (KeyError, TypeError) as error:
        raise SettingsError(
            f'{name}: expected "runs" with "link", "models" and "cells" each, got something else '
            f"({type(error).__name__}: {error}); pass the JSON file that the benchmark wrote"
        ) from error


def errors(cells: Sequence[Cell], kind: str) -> tuple[float, float] | None:
    """Median and worst error of the cells of one kind; None where there are none."""
    found = [cell.error for cell in cells if cell.kind == kind]
    return (median(found), max(found)) if found else None


def _of_run(run: Mapping[str, Any]) -> Iterator[Cell]:
    compute = {cell["model"]: median(cell["seconds"]) for cell in run["cells"] if _is_compute(cell)}
    for cell in run["cells"]:
        choice, kind, model = _choice(cell["contender"]), cell["kind"], cell["model"]
        if choice is None or not cell["seconds"]:
            continue
        numels = run["models"][model]["numels"]
        # Rates measured beside a model know what else ran then.
        measured_rates = run["models"][model].get("rates") or run.get("rates")
        if measured_rates is None:
            continue
        rates = Rates.from_dict(measured_rates)
        if kind == "aggregation":
            predicted_s = aggregation_seconds(rates, choice, numels)
        elif kind == "step" and model in compute:
            predicted_s = step_seconds(rates, choice, numels, compute[model])
        else:
            continue
        yield Cell(
            link=run["link"],
            model=model,
            contender=cell["contender"],
            kind=kind,
            predicted_s=predicted_s,
            measured_s=median(cell["seconds"]),
        )


def _is_compute(cell: Mapping[str, Any]) -> bool:
    """Whether the cell is a step without any exchange."""
    return cell["kind"] == "compute" or (cell["contender"] == "local" and cell["kind"] == "step")


def _choice(contender: str) -> Choice | None:
    """The choice that a benchmark's contender is; None for one that is not predicted."""
    bits = re.fullmatch(r"gqsgd(\d+)", contender)
    if bits:
        return Choice.of_bits(int(bits.group(1)))
    return {"hvd none": NONE, "hvd fp16": FP16}.get(contender)
