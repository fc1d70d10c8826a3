"""Exponential levels beside uniform ones: ``python -m benchmarks.accuracy.spacings`` prints the table of
docs/exponential.md, NMSE of the mean on gradients of known laws (synthetic.py)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from statistics import mean

import numpy as np

from benchmarks.accuracy import synthetic
from benchmarks.accuracy.gradients import Gradients
from benchmarks.accuracy.ours import Reduction, fits
from hvd_gqsgd.schemes import GlobalQSGD

FORMS = {
    "exponential": {"levels": "exponential", "rotation": None},
    "exponential, hadamard": {"levels": "exponential"},
    "uniform two_phase": {"exchange": "two_phase", "rotation": None},
    "uniform two_phase, hadamard": {"exchange": "two_phase"},
    "uniform ring": {"exchange": "ring", "rotation": None},
    "uniform ring, hadamard": {"exchange": "ring"},
}


def compare(law: str, bits: list[int], ns: list[int], seeds: int) -> Iterator[str]:
    """Rows of a table: form, bits, NMSE for each n; a dash where the ring has no level."""
    found: dict[tuple[int, str, int], list[float]] = {}
    for seed in range(seeds):
        everyone = synthetic.draw(law, max(ns), np.random.default_rng([seed, *map(ord, law)]))
        for n in ns:
            gradients = Gradients(everyone[:n], synthetic.TENSORS, float("nan"))
            for width in bits:
                for form, settings in FORMS.items():
                    if "ring" not in form or fits(width, n):
                        estimate = Reduction(GlobalQSGD(bits=width, **settings), gradients).estimate(seed)
                        found.setdefault((width, form, n), []).append(gradients.nmse(estimate.mean))
    for width in bits:
        for form in FORMS:
            cells = [f"{mean(found[width, form, n]):.2g}" if (width, form, n) in found else "-" for n in ns]
            yield f"| {law} | {width} | {form} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.spacings", description=__doc__)
    parser.add_argument("--laws", nargs="+", choices=list(synthetic.LAWS), default=["gaussian", "student"])
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3])
    parser.add_argument("--n", nargs="+", type=int, default=[2, 8, 64])
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| gradients | bits | levels, exchange, rotation | " + " | ".join(f"n = {n}" for n in given.n) + " |")
    print("|---|---|---|" + "---|" * len(given.n))
    for law in given.laws:
        for line in compare(law, given.bits, given.n, given.seeds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
