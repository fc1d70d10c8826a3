"""NMSE against bits: a panel for each source and number of workers, a line for each contender."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.accuracy.lines import COLORS
from benchmarks.accuracy.measure import Cell

#: What gathers every worker's codes needs bits that grow with n, and leaves the picture.
MOST_BITS = 40
MARKERS = {
    **{"paper exponential": "s", "THC switch": "v", "THC ring": "^", "IntSGD int8": "P", "IntSGD int32": "X"},
    "fp16": "D",
}


def draw(cells: Sequence[Cell], ns: Sequence[int], path: Path) -> None:
    """Panels of ``ns``; of a model with several points of its training, the last."""
    import matplotlib
    from PIL import Image

    matplotlib.use("Agg")
    from matplotlib import pyplot

    last = {source.split(" after ")[0]: source for source in dict.fromkeys(c.source for c in cells)}
    sources = list(last.values())
    figure, grid = pyplot.subplots(
        *(len(ns), len(sources)),
        figsize=(3.1 * len(sources) + 2.2, 2.7 * len(ns)),
        squeeze=False,
        layout="constrained",
        sharex=True,
    )
    for row, n in zip(grid, ns, strict=True):
        for axes, source in zip(row, sources, strict=True):
            _panel(axes, [c for c in cells if (c.source, c.n) == (source, n)])
            axes.set_title(f"{source}, n = {n}", fontsize="medium")
    for axes in grid[-1]:
        axes.set_xlabel("bits per element")
    for axes in grid[:, 0]:
        axes.set_ylabel("|g - mean|² / |mean|²")
    handles = [pyplot.Line2D([], [], label=name, color=color, **_style(name)) for name, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside right center", fontsize="small")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=75)
    pyplot.close(figure)
    # A palette makes it a third as large.
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True)


def _panel(axes: Any, cells: Sequence[Cell]) -> None:
    for line, color in COLORS.items():
        own = sorted((c.bits, c.nmse) for c in cells if c.line == line and c.bits <= MOST_BITS)
        if own:
            bits, nmse = zip(*own, strict=True)
            axes.plot(bits, nmse, color=color, **_style(line))
    axes.set(yscale="log", ylim=(1e-9, 20), xlim=(0, 20))
    axes.grid(alpha=0.3)


def _style(line: str) -> dict[str, Any]:
    """Contenders of one width are marked, others are lines."""
    marker = MARKERS.get(line, ".")
    return {"marker": marker, "markersize": 6, "linewidth": 2.2 if line == "ours" else 1}
