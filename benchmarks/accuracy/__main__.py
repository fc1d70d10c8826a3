"""``python -m benchmarks.accuracy nmse``, ``dither``, ``blocks`` and ``report``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.accuracy import block_sizes, recorded, synthetic
from benchmarks.accuracy.dithers import compare
from benchmarks.accuracy.measure import Source, measure
from benchmarks.accuracy.plots import draw
from benchmarks.accuracy.tables import block_table, dither_table, from_json, tables, to_json
from benchmarks.steps import context
from hvd_gqsgd.costs.check import FORMAT


def main() -> None:
    arguments = _arguments()
    {"nmse": nmse, "dither": dither, "blocks": blocks, "report": report}[arguments.command](arguments)


def nmse(arguments: argparse.Namespace) -> None:
    """Every contender on every source."""
    with _processes(arguments.jobs) as pool:
        sources = _sources(arguments, pool)
        started = [pool.submit(measure, source, arguments.n, arguments.seeds) for source in sources]
        cells = [cell for future in started for cell in future.result()]
    command = shlex.join(["python", "-m", "benchmarks.accuracy", *sys.argv[1:]])
    content = {"format": FORMAT, **context(), "command": command, "seeds": arguments.seeds, **to_json(cells)}
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    _show(content, arguments)


def dither(arguments: argparse.Namespace) -> None:
    """Correlated dither beside independent dither."""
    with _processes(arguments.jobs) as pool:
        rows = (
            row for s in _sources(arguments, pool) for row in compare(s, arguments.n, arguments.bits, arguments.seeds)
        )
        for line in dither_table(rows):
            print(line, flush=True)


def blocks(arguments: argparse.Namespace) -> None:
    """GlobalQSGD with blocks of several sizes."""
    rotation, sizes = None if arguments.unrotated else "hadamard", arguments.block_sizes
    with _processes(arguments.jobs) as pool:
        rows = (
            row
            for s in _sources(arguments, pool)
            for row in block_sizes.compare(s, arguments.n, sizes, rotation, arguments.seeds)
        )
        for line in block_table(rows, sizes):
            print(line, flush=True)


def report(arguments: argparse.Namespace) -> None:
    """Tables and plots of what was measured before."""
    _show(json.loads(arguments.file.read_text()), arguments)


def _show(content: dict[str, Any], arguments: argparse.Namespace) -> None:
    cells = from_json(content)
    for line in tables(cells):
        print(line)
    if arguments.plots is not None:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        path = arguments.plots / "nmse.png"
        draw(cells, arguments.plot_n, path)
        print(f"\nwrote {path}")


def _sources(arguments: argparse.Namespace, pool: ProcessPoolExecutor) -> list[Source]:
    """All that are asked for, recorded where they have to be."""
    models = [name for name in arguments.data if name in recorded.NAMES]
    missing = [m for m in models if not (arguments.reuse and recorded.is_recorded(m, arguments.points))]
    for recording in [pool.submit(recorded.record, name, arguments.points) for name in missing]:
        recording.result()
    return [
        source
        for name in arguments.data
        for source in ([Source(name, p) for p in arguments.points] if name in models else [Source(name)])
    ]


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """As many processes as jobs, of one thread each: NumPy's, PyTorch's and the kernels'."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield pool


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    names = (*recorded.NAMES, *synthetic.LAWS)
    measured = commands.add_parser("nmse", help="every contender on every kind of gradient")
    dithered = commands.add_parser("dither", help="correlated dither beside independent dither")
    blocked = commands.add_parser("blocks", help="error and bits by the size of a block")
    again = commands.add_parser("report", help="tables and plots of what nmse wrote")
    for command, ns, points in (
        (measured, [2, 4, 8, 16, 32, 64, 128], [5, 50, 200]),
        (dithered, [2, 4, 8, 64], [50]),
        (blocked, [8], [50]),
    ):
        command.add_argument("--n", nargs="+", type=int, default=ns, help="numbers of workers, 2 to 128")
        command.add_argument(
            "--data", nargs="+", choices=names, default=list(names), metavar="NAME", help=" ".join(names)
        )
        command.add_argument("--points", nargs="+", type=int, default=points, help="steps that a model has trained")
        command.add_argument("--seeds", type=int, default=3)
        command.add_argument("--jobs", type=int, default=os.cpu_count())
        command.add_argument("--reuse", action="store_true", help="gradients that were recorded before")
    dithered.add_argument("--bits", type=int, default=8)
    blocked.add_argument("--block-sizes", nargs="+", type=int, default=list(block_sizes.SIZES), metavar="NUMEL")
    blocked.add_argument("--unrotated", action="store_true", help="rotation=None")
    measured.add_argument("--json", type=Path)
    again.add_argument("file", type=Path, help="JSON of nmse")
    for command in (measured, again):
        command.add_argument("--plots", type=Path, help="folder for nmse.png")
        command.add_argument(
            "--plot-n", nargs="+", type=int, default=[2, 8, 64], help="numbers of workers that it shows"
        )
    return parser.parse_args()


if __name__ == "__main__":
    main()
