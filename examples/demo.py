"""What ``make demo`` runs: the digits without and with compression, one after the other, in one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

EXAMPLES = ("torch", "tensorflow", "keras", "keras3")
RUNS = (["none"], ["fp16"], ["gqsgd", "--bits", "8"], ["gqsgd", "--bits", "4"])


def train(example: str, run: list[str], ranks: int, epochs: int, seed: int) -> dict:
    """One training under horovodrun; its result as the example reports it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        script = Path(__file__).with_name(f"{example}_digits.py")
        command = ["horovodrun", "-np", str(ranks), "--gloo", sys.executable, str(script)]
        command += ["--epochs", str(epochs), "--seed", str(seed), "--report", str(report), "--compression", *run]
        # TensorFlow, which horovodrun imports, greets on stderr.
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        subprocess.run(command, env=environment, check=True)
        return json.loads(report.read_text())


def row_of(results: list[dict]) -> str:
    """One line of the table from the runs of one compression, one per seed."""
    first = results[0]
    label = first["compression"] + (f" {first['bits']} bits" if first["compression"] == "gqsgd" else "")
    accuracies = [result["accuracy"] for result in results]
    accuracy = f"{mean(accuracies):.4f}" + (f" +-{stdev(accuracies):.4f}" if len(results) > 1 else "")
    if first["ranks"] == 1:
        sent, less = "sends nothing", "-"
    else:
        sent = f"{first['bytes_per_step']:,}"
        less = f"{first['uncompressed_bytes_per_step'] / first['bytes_per_step']:.2f}x"
    seconds = mean(result["seconds"] for result in results)
    return f"{label:<16}{accuracy:>18}{sent:>14}{less:>10}{seconds:>10.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--example", choices=EXAMPLES, default="torch", help="which of the digits (default: torch)")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each kind; accuracy is then mean and spread")
    args = parser.parse_args()
    results = [[train(args.example, run, args.ranks, args.epochs, seed) for seed in range(args.seeds)] for run in RUNS]

    print(
        f"\n{args.example}: scikit-learn's digits, {args.ranks} rank(s), {args.epochs} epochs, {args.seeds} seed(s), "
        "the same for all; payload bytes of one rank\n"
    )
    print(f"{'compression':<16}{'accuracy':>18}{'bytes/step':>14}{'less':>10}{'seconds':>10}")
    for runs in results:
        print(row_of(runs))
    print(
        "\nSeconds are of this machine's loopback, where there is no slow network to save: they show what compression\n"
        "costs, not what it gains."
    )


if __name__ == "__main__":
    main()
