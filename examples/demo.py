"""What ``make demo`` runs: the digits without and with compression, one after the other, in one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLE = Path(__file__).with_name("torch_digits.py")
RUNS = (["none"], ["fp16"], ["gqsgd", "--bits", "8"], ["gqsgd", "--bits", "4"])


def train(run: list[str], ranks: int, epochs: int) -> dict:
    """One training under horovodrun; its result as the example reports it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = ["horovodrun", "-np", str(ranks), "--gloo", sys.executable, str(EXAMPLE)]
        command += ["--epochs", str(epochs), "--report", str(report), "--compression", *run]
        # TensorFlow, which horovodrun imports, greets on stderr.
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        subprocess.run(command, env=environment, check=True)
        return json.loads(report.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    results = [train(run, args.ranks, args.epochs) for run in RUNS]

    print(f"\nscikit-learn's digits, {args.ranks} ranks, {args.epochs} epochs, same seeds; payload bytes of one rank\n")
    print(f"{'compression':<16}{'accuracy':>10}{'bytes/step':>14}{'less':>10}{'seconds':>10}")
    for result in results:
        label = result["compression"] + (f" {result['bits']} bits" if result["compression"] == "gqsgd" else "")
        less = result["uncompressed_bytes_per_step"] / result["bytes_per_step"]
        print(
            f"{label:<16}{result['accuracy']:>10.4f}{result['bytes_per_step']:>14,}{less:>9.2f}x"
            f"{result['seconds']:>10.1f}"
        )
    print(
        "\nSeconds are of this machine's loopback, where there is no slow network to save: they show what compression\n"
        "costs, not what it gains."
    )


if __name__ == "__main__":
    main()
