"""The planning table as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hvd_gqsgd.costs.planning import Plan
from hvd_gqsgd.errors import SettingsError


def draw(rows: Sequence[Plan], path: str | Path, title: str) -> None:
    """Write a picture of ``rows``: gain over ranks, one line for each link, settings at the points.

    Raises SettingsError where matplotlib is missing or takes no such file.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SettingsError(
            f"plot {path}: expected matplotlib, got {error}; write `pip install matplotlib`, or --plan for text"
        ) from error
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for gbit in sorted({row.gbit for row in rows}):
        line = sorted((row for row in rows if row.gbit == gbit), key=lambda row: row.ranks)
        axes.plot([row.ranks for row in line], [row.gain for row in line], marker="o", label=f"{gbit:g} Gbit/s")
        last = None
        for row in line:
            if row.setting != last:
                axes.annotate(row.setting, (row.ranks, row.gain), textcoords="offset points", xytext=(0, 6), size=8)
            last = row.setting
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row.ranks for row in rows}), [str(n) for n in sorted({row.ranks for row in rows})])
    axes.set_xlabel("ranks")
    axes.set_ylabel("predicted aggregation time, none / recommended")
    axes.set_ylim(bottom=0.9)
    axes.set_title(title, size=10)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"plot {path}: expected a file that can be written, got {error}; write --plot FILE.png"
        ) from error
