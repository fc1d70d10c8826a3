"""Tables of where training ended, with every compression held against none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.training_worlds import World, world_of

#: How far the mean may be on the worse side of none's: in standard deviations of none over seeds, or relative to it.
RULES = {"1 std": ("stds", 1.0), "1 %": ("relative", 0.01)}
BASE = "none"


@dataclass(frozen=True)
class Ending:
    """Where one compression ended by one metric, over seeds.

    sent_bytes: of a step, mean over the run and over seeds; None where an older run did not count them.
    stds, relative: its mean less none's, over none's standard deviation and over none's mean; None without none's.
    holds: by rule; not worse than none by more than the rule allows.
    """

    compression: str
    seeds: int
    mean: float
    std: float
    sent_bytes: int | None = None
    stds: float | None = None
    relative: float | None = None
    holds: dict[str, bool] | None = None


def tables(document: dict[str, Any]) -> Iterator[str]:
    """One table for each model, optimizer, world and metric, then what holds at which width."""
    for (model, optimizer, world), cells in by_place(document).items():
        about = document["models"][model]
        steps = ", ".join(str(count) for count in dict.fromkeys(c["steps"] for c in cells))
        references = "".join(f"; {name} {value:.5g}" for name, value in about["references"].items())
        yield f"\n{model}, {optimizer}, {world}, {steps} steps{references}"
        for metric in about["metrics"]:
            ends = endings(cells, metric["name"], metric["higher_is_better"])
            yield from _table(metric["name"], ends, sum(about["numels"]))
            for rule in RULES:
                yield f"  {narrowest(cells, ends, rule)}"


def by_place(document: dict[str, Any]) -> dict[tuple[str, str, World], list[dict[str, Any]]]:
    """The cells that may be compared, by model, optimizer and world."""
    places: dict[tuple[str, str, World], list[dict[str, Any]]] = {}
    for cell in document["cells"]:
        places.setdefault((cell["model"], cell["optimizer"], world_of(cell)), []).append(cell)
    return places


def endings(cells: list[dict[str, Any]], metric: str, higher_is_better: bool) -> list[Ending]:
    """Of cells of one model and optimizer, in their order."""
    base = next((np.array(c["metrics"][metric]) for c in cells if c["compression"] == BASE), None)
    ends = []
    for cell in cells:
        values = np.array(cell["metrics"][metric])
        end = Ending(cell["compression"], len(values), float(values.mean()), _std(values), cell.get("sent_bytes"))
        if base is not None and end.compression != BASE:
            more = end.mean - float(base.mean())
            away = {"stds": more / _std(base) if _std(base) else np.nan, "relative": more / float(base.mean())}
            worse = -1 if higher_is_better else 1
            holds = {rule: bool(worse * away[unit] <= most) for rule, (unit, most) in RULES.items()}
            end = replace(end, **away, holds=holds)
        ends.append(end)
    return ends


def narrowest(cells: list[dict[str, Any]], ends: list[Ending], rule: str) -> str:
    """The fewest bits that hold, and which wider ones do not."""
    bits = {c["compression"]: c["bits"] for c in cells if c.get("bits")}
    judged = sorted(
        (e for e in ends if e.holds is not None and e.compression in bits), key=lambda e: bits[e.compression]
    )
    if any(e.seeds < 2 for e in judged) and RULES[rule][0] == "stds":
        return f"within {rule}: not judged, one seed has no spread"
    held = [e.compression for e in judged if e.holds and e.holds[rule]]
    if not held:
        return f"within {rule}: none of {', '.join(e.compression for e in judged)} holds" if judged else ""
    failed = [e.compression for e in judged if e.compression not in held and bits[e.compression] > bits[held[0]]]
    return f"within {rule}: narrowest is {held[0]}" + (f", though not {', '.join(failed)}" if failed else "")


def _std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _table(metric: str, ends: list[Ending], numel: int) -> Iterator[str]:
    marks = "".join(f"{rule:>7}" for rule in RULES)
    sizes = f"{'bits':>7}{'bytes/step':>12}{'less':>7}"
    yield f"  {metric:<17}{'seeds':>6}{'mean':>11}{'std':>10}{sizes}{'stds off':>10}{'% off':>9}{marks}"
    for end in ends:
        row = f"  {end.compression:<17}{end.seeds:>6}{end.mean:>11.5g}{end.std:>10.2g}{_sizes(end.sent_bytes, numel)}"
        if end.holds is not None:
            row += f"{end.stds:>+10.2f}{100 * (end.relative or 0):>+9.2f}"
            row += "".join(f"{'holds' if held else '-':>7}" for held in end.holds.values())
        yield row


def _sizes(sent_bytes: int | None, numel: int) -> str:
    """Bits of an element, bytes of a step, and how many times less that is than float32."""
    if sent_bytes is None:
        return f"{'?':>7}{'?':>12}{'?':>7}"
    return f"{8 * sent_bytes / numel:>7.2f}{sent_bytes:>12,}{4 * numel / sent_bytes:>7.2f}"
