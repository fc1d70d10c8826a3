"""Training curves: the loss of batches, mean over ranks and seeds, against the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DPI = 90


def draw(document: dict[str, Any], path: Path) -> None:
    """One panel for each model and optimizer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = document["cells"]
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    optimizers = list(dict.fromkeys(cell["optimizer"] for cell in cells))
    names = list(dict.fromkeys(cell["compression"] for cell in cells))
    colors = {name: "black" if name == "none" else f"C{index}" for index, name in enumerate(names)}
    figure, grid = pyplot.subplots(
        len(optimizers),
        len(models),
        figsize=(4.6 * len(models), 3.4 * len(optimizers)),
        squeeze=False,
        layout="constrained",
    )
    for row, optimizer in zip(grid, optimizers, strict=True):
        for axes, model in zip(row, models, strict=True):
            here = [cell for cell in cells if (cell["model"], cell["optimizer"]) == (model, optimizer)]
            for cell in here:
                name = cell["compression"]
                style = "--" if name == "none" else "-"
                axes.plot(*cell["curve"].values(), style, color=colors[name], label=name, linewidth=1.2)
            axes.set(yscale="log", xlabel="step", ylabel="training loss", title=f"{model}, {optimizer}")
            axes.grid(alpha=0.3, which="both")
    grid[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
