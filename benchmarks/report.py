"""Tables and plots of what ``benchmarks.steps`` measured: ``python -m benchmarks.report FILES --plots FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, read, tables

COLORS = {
    "local": "0.6",
    "hvd none": "black",
    "hvd fp16": "tab:brown",
    "gqsgd8": "tab:blue",
    "gqsgd6": "tab:cyan",
    "gqsgd4": "tab:green",
    "gqsgd8 unrotated": "tab:purple",
    "gqsgd8 two-phase": "teal",
    "gqsgd4 two-phase": "turquoise",
    "exponential8": "olive",
    "exponential4": "yellowgreen",
    "dqsgd4": "crimson",
    "marsit100": "gold",
    "gradiveq": "tan",
    "gradiveq 512": "peru",
    "gqsgd4 unrotated": "tab:olive",
    "ddp none": "tab:red",
    "ddp fp16": "tab:pink",
    "ddp powersgd4": "tab:orange",
}


def main() -> None:
    arguments = _arguments()
    cells = read(arguments.files)
    for line in tables(cells):
        print(line)
    if arguments.plots is not None:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        for name, draw in (("steps", step_times), ("traffic", traffic), ("error", error_against_bytes)):
            path = arguments.plots / f"{name}.png"
            draw(cells, path)
            print(f"wrote {path}")


def step_times(cells: list[Cell], path: Path) -> None:
    """Step time by link speed, one panel for each model and number of hosts."""
    shaped = [c for c in cells if c.kind == "step" and c.bits_per_second]

    def panel(axes: Any, here: list[Cell]) -> None:
        for name, own in _by_contender(here):
            own.sort(key=lambda c: c.bits_per_second or 0)
            speeds = [(c.bits_per_second or 0) / 1e9 for c in own]
            axes.plot(speeds, [c.median for c in own], "o-", color=COLORS[name], label=name)
            axes.fill_between(
                speeds, [c.quartiles[0] for c in own], [c.quartiles[1] for c in own], color=COLORS[name], alpha=0.15
            )
        axes.set(xscale="log", yscale="log", xlabel="link, Gbit/s", ylabel="step, s")

    _panels(shaped, panel, path)


def traffic(cells: list[Cell], path: Path) -> None:
    """Bytes that leave a host in one step, by its interface's counter."""
    shaped = [c for c in cells if c.kind == "step" and c.link == "1gbit"]

    def panel(axes: Any, here: list[Cell]) -> None:
        axes.barh([c.contender for c in here], [c.sent_bytes / 1e6 for c in here], color=_colors(here))
        axes.invert_yaxis()
        axes.set(xlabel="MB per step and host")

    _panels(shaped, panel, path, legend=False)


def error_against_bytes(cells: list[Cell], path: Path) -> None:
    """Error of the mean gradient of one step against the bytes that it took.

    GradiVeQ's error is that of its sampling, whose bytes nobody counted.
    """
    left_out = ("local", "hvd none", "gradiveq", "gradiveq 512")
    here_too = [c for c in cells if c.kind == "step" and c.link == "1gbit" and c.contender not in left_out]

    def panel(axes: Any, here: list[Cell]) -> None:
        for name, own in _by_contender(here):
            if (own[0].relative_error or 0) > 1e-12:
                axes.plot(own[0].sent_bytes / 1e6, own[0].relative_error, "o", color=COLORS[name], label=name)
        axes.set(xscale="log", yscale="log", xlabel="MB per step and host", ylabel="|g - mean|² / |mean|²")

    _panels(here_too, panel, path)


def _panels(cells: list[Cell], panel: Callable[[Any, list[Cell]], None], path: Path, legend: bool = True) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = sorted({(c.hosts, c.model) for c in cells})
    if not places:
        raise SystemExit(f"benchmarks.report: {path.name}: expected cells with shaped links, got none")
    models = list(dict.fromkeys(c.model for c in cells))
    counts = list(dict.fromkeys(hosts for hosts, _ in places))
    figure, grid = pyplot.subplots(
        len(counts), len(models), figsize=(4.6 * len(models), 3.8 * len(counts)), squeeze=False, layout="constrained"
    )
    for row, hosts in zip(grid, counts, strict=True):
        for axes, model in zip(row, models, strict=True):
            here = [c for c in cells if (c.hosts, c.model) == (hosts, model)]
            if not here:
                axes.set_axis_off()
                continue
            panel(axes, here)
            axes.set_title(f"{model}, {hosts} hosts")
            axes.grid(alpha=0.3)
    if legend:
        drawn = {}
        for axes in grid.flat:
            handles, labels = axes.get_legend_handles_labels()
            drawn.update(zip(labels, handles, strict=True))
        names = [name for name in COLORS if name in drawn]
        figure.legend([drawn[name] for name in names], names, loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _by_contender(cells: list[Cell]) -> list[tuple[str, list[Cell]]]:
    return [(name, own) for name in COLORS if (own := [c for c in cells if c.contender == name])]


def _colors(cells: list[Cell]) -> list[str]:
    return [COLORS[c.contender] for c in cells]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="JSON files of benchmarks.steps")
    parser.add_argument("--plots", type=Path, help="folder for steps.png, traffic.png and error.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
