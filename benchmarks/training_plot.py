"""Training curves: the loss of batches, mean over ranks and seeds, against the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.training_table import by_place

DPI = 90


def draw(document: dict[str, Any], path: Path) -> None:
    """One panel for each model, optimizer and world."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = document["cells"]
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    places = by_place(document)
    rows = list(dict.fromkeys((optimizer, world) for _, optimizer, world in places))
    names = list(dict.fromkeys(cell["compression"] for cell in cells))
    colors = {name: "black" if name == "none" else f"C{index}" for index, name in enumerate(names)}
    figure, grid = pyplot.subplots(
        len(rows),
        len(models),
        figsize=(4.6 * len(models), 3.4 * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    lines: dict[str, Any] = {}
    for panels, (optimizer, world) in zip(grid, rows, strict=True):
        for axes, model in zip(panels, models, strict=True):
            here = places.get((model, optimizer, world), [])
            axes.set_visible(bool(here))
            for cell in here:
                name = cell["compression"]
                style = "--" if name == "none" else "-"
                lines[name] = axes.plot(*cell["curve"].values(), style, color=colors[name], linewidth=1.2)[0]
            axes.set(yscale="log", xlabel="step", ylabel="training loss", title=f"{model}, {optimizer}, {world}")
            axes.grid(alpha=0.3, which="both")
    figure.legend(lines.values(), lines.keys(), fontsize="small", loc="outside right upper")
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
