"""``hvd-gqsgd advise``: whether compression pays on a network, which setting, and how good the prediction is."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hvd_gqsgd.costs import machine
from hvd_gqsgd.costs.advice import Advice, advise
from hvd_gqsgd.costs.check import Cell, cells, errors
from hvd_gqsgd.costs.choices import NONE, model_of
from hvd_gqsgd.costs.planning import Plan, link_bandwidth, plan, table
from hvd_gqsgd.costs.plot import draw
from hvd_gqsgd.costs.rates import Rates
from hvd_gqsgd.errors import GQSGDError, SettingsError

_EXAMPLES = """examples:
  hvd-gqsgd advise --ranks 8 --gbit 10 --params 25e6        a network that is told; the kernels are measured here
  horovodrun -np 2 hvd-gqsgd advise --params 25e6           everything is measured, rank 0 prints
  hvd-gqsgd advise --rates rates.json --params 1e9 --plan   other models and networks, from rates saved before
  hvd-gqsgd advise --check results.json                     predictions beside a benchmark's measurements
"""
#: What launchers tell a process about the size of its world: horovodrun with Gloo, Open MPI, MPICH and Slurm's srun.
_WORLD_SIZES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_DEFAULT_HOP_MS = 0.05


def add_parser(subparsers: Any) -> None:
    """Add ``advise`` to the subparsers of an argparse parser."""
    parser = subparsers.add_parser(
        "advise",
        help="should I compress, and with which setting",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--params", metavar="N", help="parameters of the model, for instance 25e6")
    add("--model-file", metavar="FILE", help="JSON list of the number of elements of each of the model's tensors")
    add("--ranks", type=int, metavar="N", help="size of the world (default: of the running one, or of --rates)")
    add("--gbit", type=float, metavar="G", help="bandwidth of a rank's link, Gbit/s")
    add("--latency-ms", type=float, metavar="MS", help=f"one message from rank to rank (default {_DEFAULT_HOP_MS})")
    add("--rates", metavar="FILE", help="what --save-rates wrote, instead of measuring")
    add("--seconds", type=float, default=10.0, metavar="S", help="to measure for, under horovodrun (default 10)")
    add("--plan", action="store_true", help="also the best setting for 2 to 1024 ranks at 1 to 400 Gbit/s")
    add("--plot", metavar="FILE.png", help="the same as a picture (needs matplotlib)")
    add("--json", metavar="FILE", help="write everything that is printed")
    add("--save-rates", metavar="FILE", help="write what was measured")
    add("--check", nargs="+", metavar="RESULTS.json", help="only compare predictions with a benchmark's results")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print table and recommendation on rank 0; 0, or 2 with a line on stderr for bad input."""
    try:
        return _check(arguments.check) if arguments.check else _advise(arguments)
    except GQSGDError as error:
        print(f"hvd-gqsgd advise: {error}", file=sys.stderr)
        return 2


def _advise(arguments: argparse.Namespace) -> int:
    numels = _numels(arguments)
    _check_network(arguments)
    rates = _rates(arguments)
    if rates is None:
        return 0
    if arguments.save_rates:
        _write(arguments.save_rates, rates.to_dict())
    advice = advise(rates, numels, arguments.ranks)
    planned = plan(rates, numels) if arguments.plan or arguments.plot or arguments.json else []
    for line in _report(rates, numels, advice):
        print(line)
    if arguments.plan:
        print("\nRecommended setting and predicted gain, with machines as above and hosts that keep up with the link:")
        print("\n".join(table(planned)))
    if arguments.plot:
        draw(planned, arguments.plot, f"{sum(numels):,} parameters, rates {rates.source} on {rates.ranks} ranks")
    if arguments.json:
        _write(arguments.json, _as_json(rates, numels, advice, planned))
    return 0


def _numels(arguments: argparse.Namespace) -> list[int]:
    if (arguments.params is None) == (arguments.model_file is None):
        got = "neither" if arguments.params is None else "both"
        raise SettingsError(f"model: expected --params or --model-file, got {got}; write for instance --params 25e6")
    if arguments.model_file is not None:
        numels = _read(arguments.model_file)
        if not isinstance(numels, list) or not numels or not all(type(x) is int and x > 0 for x in numels):
            raise SettingsError(
                f"--model-file {arguments.model_file}: expected a JSON list of positive integers, got "
                f"{str(numels)[:60]}; write it with json.dump([p.numel() for p in model.parameters()], file)"
            )
        return numels
    try:
        parameters = float(arguments.params.replace("_", "").replace(",", ""))
        if not 1 <= parameters < 1e15:
            raise ValueError
    except ValueError:
        raise SettingsError(
            f"--params {arguments.params}: expected a number of parameters, got {arguments.params!r}; "
            "write for instance --params 25e6"
        ) from None
    return model_of(int(parameters))


def _check_network(arguments: argparse.Namespace) -> None:
    for option, value, least in (("--gbit", arguments.gbit, 0), ("--latency-ms", arguments.latency_ms, -1)):
        if value is not None and not least < value < 1e9:
            raise SettingsError(
                f"{option} {value}: expected a number of {'more than ' if not least else ''}0, got {value}; "
                f"write for instance {option} {10 if not least else _DEFAULT_HOP_MS}"
            )
    if arguments.ranks is not None and not 2 <= arguments.ranks < 1 << 20:
        raise SettingsError(
            f"--ranks {arguments.ranks}: expected 2 or more, since with one rank nothing travels; "
            "write for instance --ranks 8"
        )


def _rates(arguments: argparse.Namespace) -> Rates | None:
    """The rates to predict with; None on ranks that have nothing to print."""
    if arguments.rates:
        rates = Rates.from_dict(_read(arguments.rates))
        return rates.on_link(link_bandwidth(arguments.gbit)) if arguments.gbit else rates
    if any(int(os.environ.get(name, "1")) > 1 for name in _WORLD_SIZES):
        return _measured(arguments.seconds)
    if arguments.ranks is None or arguments.gbit is None:
        raise SettingsError(
            "network: expected --ranks and --gbit, or a running world, or --rates; got none of them; write for "
            "instance --ranks 8 --gbit 10, or `horovodrun -np 2 hvd-gqsgd advise ...`"
        )
    hop_ms = _DEFAULT_HOP_MS if arguments.latency_ms is None else arguments.latency_ms
    return machine.given_rates(
        ranks=arguments.ranks, bandwidth=link_bandwidth(arguments.gbit), hop_s=hop_ms / 1e3, threads=0
    )


def _measured(seconds: float) -> Rates | None:
    try:
        hvd = importlib.import_module("horovod.torch")
        front_end = importlib.import_module("hvd_gqsgd.torch.rates")
    except ImportError as error:
        raise SettingsError(
            f"measuring in a running world: expected horovod.torch, got {error}; `hvd-gqsgd doctor` says what is "
            "missing, --ranks and --gbit with --rates need no world"
        ) from error
    hvd.init()
    measured: Rates = front_end.measure_rates(seconds=seconds)
    first = hvd.rank() == 0
    hvd.shutdown()
    return measured if first else None


def _report(rates: Rates, numels: Sequence[int], advice: Advice) -> Iterator[str]:
    yield (
        f"{sum(numels):,} parameters in {len(numels)} tensors, {advice.ranks} ranks; rates {rates.source} on "
        f"{rates.ranks}: {rates.bandwidth / 1e6:,.0f} MB/s, {rates.latency_s * 1e3:.2f} ms an operation, "
        f"{rates.threads} threads"
    )
    yield ""
    yield f"{'setting':<8} {'MB sent':>9} {'seconds':>9} {'gain':>7} {'levels':>7}"
    for row in advice.predictions:
        mark = " <" if row is advice.best else ""
        levels = "-" if row.levels is None else str(row.levels)
        size, gain = f"{row.wire_bytes / 1e6:.2f}", f"{row.gain:.2f} x"
        yield f"{row.choice.name:<8} {size:>9} {row.seconds:>9.4f} {gain:>7} {levels:>7}{mark}"
    yield ""
    yield advice.sentence
    yield from advice.warnings
    if advice.best.choice != NONE:
        yield f"    opt = hvd.DistributedOptimizer(opt, ..., {advice.best.choice.code})"
    if rates.source == "given":
        yield "The network is as told, not measured; `horovodrun -np 2 -H host1,host2 hvd-gqsgd advise ...` measures."


def _as_json(rates: Rates, numels: Sequence[int], advice: Advice, planned: Sequence[Plan]) -> dict[str, Any]:
    return {
        "ranks": advice.ranks,
        "numels": list(numels),
        "rates": rates.to_dict(),
        "predictions": [
            {
                "setting": row.choice.name,
                "code": row.choice.code,
                "levels": row.levels,
                "wire_bytes": row.wire_bytes,
                "seconds": row.seconds,
                "gain": row.gain,
            }
            for row in advice.predictions
        ],
        "recommended": advice.best.choice.name,
        "sentence": advice.sentence,
        "warnings": list(advice.warnings),
        "plan": [vars(row) for row in planned],
    }


def _check(paths: Sequence[str]) -> int:
    found = [cell for path in paths for cell in cells(_read(path), path)]
    if not found:
        raise SettingsError(
            f"--check {' '.join(paths)}: expected cells of kind aggregation or step in runs with rates, got none; "
            "run the benchmark so that it measures rates"
        )
    for line in _compared(found):
        print(line)
    return 0


def _compared(found: Sequence[Cell]) -> Iterator[str]:
    yield f"{'link':<12} {'model':<14} {'contender':<10} {'kind':<12} {'predicted':>10} {'measured':>10} {'error':>6}"
    for cell in found:
        seconds = f"{cell.predicted_s:>9.4f}s {cell.measured_s:>9.4f}s"
        yield f"{cell.link:<12} {cell.model:<14} {cell.contender:<10} {cell.kind:<12} {seconds} {cell.error:>6.0%}"
    yield ""
    for kind in ("aggregation", "step"):
        both = errors(found, kind)
        if both is not None:
            count = sum(cell.kind == kind for cell in found)
            yield f"{kind}: median error {both[0]:.0%}, worst {both[1]:.0%}, of {count} cells"


def _read(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: expected a JSON file, got {error}; check the path and the file") from error


def _write(path: str, value: Any) -> None:
    try:
        Path(path).write_text(json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise SettingsError(f"{path}: expected a file that can be written, got {error}; write another path") from error
