"""Do the kernels run at memory speed? Block norms, encode and decode beside memcpy of the same gradient.

A machine's memory speed drifts with what else runs on it, so every timing of a kernel stands between two of memcpy, and
what counts is the quotient: the median over all repetitions, with its quartiles. Where other work runs all the time,
read ``best`` instead: the quotient of the shortest times, in CPU time if there is one thread. N bytes of gradient are
N bytes of work for memcpy and kernels alike. All buffers are touched before and used again, as in training.

    python -m benchmarks.kernels --isa avx2 --widths 4 8 --dtypes float16
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.kernels.compiled import CompiledKernels
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.maths import floats
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.maths.levels import MAX_BITS, MIN_BITS

BAR = 0.9
Work = Callable[[], Any]


class Row(NamedTuple):
    """One line of the table: GB/s of gradient; quotients with memcpy as median, quartiles and of the best times."""

    kernel: str
    isa: str
    rotation: str
    dtype: str
    bits: int | None
    threads: int
    gb_per_s: float
    ratio: float
    low: float
    high: float
    best: float


def gradient(numel: int, dtype: str) -> np.ndarray:
    """Normal values; the 16-bit types made in pieces, because float64 on the way would take four times their memory."""
    out = np.empty(numel, dtype=floats.storage(dtype))
    rng = np.random.default_rng(0)
    for start in range(0, numel, 1 << 20):
        piece = rng.standard_normal(min(1 << 20, numel - start))
        out[start : start + piece.size] = floats.from_float64(piece, dtype)
    return out


def copies(source: np.ndarray, target: np.ndarray, threads: int) -> dict[str, Work]:
    """Ways to copy with ``threads`` threads. Nobody's memcpy is the fastest everywhere, so all of them compete."""
    to, of = target.ctypes.data, source.ctypes.data
    if threads == 1:
        ways: dict[str, Work] = {"memmove": lambda: ctypes.memmove(to, of, source.nbytes)}
    else:
        pool = ThreadPoolExecutor(threads)
        edges = [source.nbytes * part // threads for part in range(threads + 1)]

        def part(begin: int, end: int) -> None:
            ctypes.memmove(to + begin, of + begin, end - begin)

        ways = {"memmove": lambda: list(pool.map(part, edges[:-1], edges[1:]))}
    try:
        import torch
    except ImportError:
        return ways
    a, b = torch.from_numpy(source.view(np.uint8)), torch.from_numpy(target.view(np.uint8))

    def copy() -> None:
        torch.set_num_threads(threads)
        b.copy_(a)

    return {**ways, "torch": copy}


def seconds(work: Work) -> tuple[float, float]:
    """Wall time and CPU time of this thread; the latter forgives whoever else wants the processor."""
    cpu, wall = time.thread_time(), time.perf_counter()
    work()
    return time.perf_counter() - wall, time.thread_time() - cpu


def fastest(ways: dict[str, Work]) -> tuple[str, Work]:
    """The way that takes the least time, best of seven."""
    best = {name: min(seconds(work)[0] for _ in range(7)) for name, work in ways.items()}
    name = min(best, key=lambda way: best[way])
    return name, ways[name]


def measure(
    work: Work, memcpy: Work, repeats: int, nbytes: int, clock_of_best: int
) -> tuple[float, float, float, float, float]:
    """GB/s, median quotient, its quartiles, and that of the best times; memcpy runs before and after each call."""
    work()
    copied = [seconds(memcpy)]
    worked = []
    for _ in range(repeats):
        worked.append(seconds(work))
        copied.append(seconds(memcpy))
    # Beside the mean of both neighbours, so that a steady drift cancels.
    around = [(before[0] + after[0]) / 2 for before, after in itertools.pairwise(copied)]
    low, ratio, high = statistics.quantiles((c / w[0] for c, w in zip(around, worked, strict=True)), n=4)
    best = min(times[clock_of_best] for times in copied) / min(times[clock_of_best] for times in worked)
    return nbytes / statistics.median(wall for wall, _ in worked) / 1e9, ratio, low, high, best


def rows_of(options: argparse.Namespace, dtype: str) -> list[Row]:
    """Everything about one dtype; its buffers are freed with the return."""
    source = gradient(options.numel, dtype)
    target = np.zeros_like(source)
    size, rest = divmod(options.numel, options.tensors)
    numels = [size + (index < rest) for index in range(options.tensors)]
    ends = np.cumsum([0, *numels])
    tensors, outs = ([flat[a:b] for a, b in itertools.pairwise(ends)] for flat in (source, target))
    rows = []
    for threads in options.threads:
        way, memcpy = fastest(copies(source, target, threads))
        speed = source.nbytes / min(seconds(memcpy)[0] for _ in range(7)) / 1e9
        print(f"memcpy {dtype}, {threads} threads: {speed:.1f} GB/s by {way}", file=sys.stderr, flush=True)
        for isa, rotation, bits in itertools.product(options.isa, options.rotations, options.widths):
            kernels = CompiledKernels(isa=isa, threads=threads)
            members = tuple(
                Member(tensor_id=index, numel=numel, dtype=dtype, bits=bits) for index, numel in enumerate(numels)
            )
            rotated = rotation == "hadamard"
            layout = Layout(members=members, block_size=options.block_size, rotated=rotated, dither="correlated")
            norms, words = np.zeros(layout.norms_numel, np.float32), np.zeros(layout.words_numel, np.int32)
            turn = Turn(seed=1, step=2, rank=0, size=1)
            works: dict[str, Work] = {
                "block_norms": functools.partial(kernels.block_norms, layout, tensors, norms, turn),
                "encode": functools.partial(kernels.encode, layout, tensors, norms, words, turn),
                "decode": functools.partial(kernels.decode, layout, outs, words, norms, turn, factor=1.0),
            }
            works["block_norms"]()
            for name, work in works.items():
                width = None if name == "block_norms" else bits
                if width is None and bits != options.widths[0]:
                    continue  # norms know nothing of widths
                figures = measure(work, memcpy, options.repeats, source.nbytes, int(threads == 1))
                rows.append(Row(name, isa, rotation, dtype, width, threads, *figures))
    return rows


def table(rows: list[Row]) -> str:
    """Plain text; a ratio under the bar is marked."""
    names = f"{'kernel':12}{'isa':10}{'rotation':10}{'dtype':10}{'bits':>4}{'threads':>9}"
    lines = [f"{names}{'GB/s':>8}{'ratio':>8}  quartiles   best"]
    for row in rows:
        what = f"{row.kernel:12}{row.isa:10}{row.rotation:10}{row.dtype:10}{row.bits or '-':>4}{row.threads:>9}"
        mark = f"  < {BAR}" if row.ratio < BAR else ""
        quotients = f"{row.ratio:8.2f}  {row.low:4.2f}-{row.high:4.2f}{row.best:7.2f}"
        lines.append(f"{what}{row.gb_per_s:8.1f}{quotients}{mark}")
    under = sum(row.ratio < BAR for row in rows)
    return "\n".join([*lines, "", f"{under} of {len(rows)} ratios to memcpy are under {BAR}"])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; ``all`` as an instruction set is every one that runs here."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").splitlines()[0])
    here = compiled.runnable()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    widths = range(MIN_BITS, MAX_BITS + 1)
    parser.add_argument("--numel", type=int, default=25_000_000, help="elements of the gradient")
    parser.add_argument("--tensors", type=int, default=1, help="tensors that they are divided among")
    parser.add_argument("--block-size", type=int, default=256)
    parser.add_argument("--rotations", nargs="+", choices=("none", "hadamard"), default=["none", "hadamard"])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    parser.add_argument("--isa", nargs="+", choices=[*here, "all"], default=["all"])
    parser.add_argument("--dtypes", nargs="+", choices=floats.DTYPES, default=["float32", "float16", "bfloat16"])
    parser.add_argument("--widths", type=int, nargs="+", choices=widths, default=[4, 5, 6, 7, 8], metavar="BITS")
    parser.add_argument("--repeats", type=int, default=9, help="timings of each kernel")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args(arguments)
    options.isa = here if "all" in options.isa else options.isa
    return options


def main() -> None:
    options = parse()
    rows = [row for dtype in options.dtypes for row in rows_of(options, dtype)]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
