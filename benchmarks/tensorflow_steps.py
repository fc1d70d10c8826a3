"""Training steps in TensorFlow between shaped hosts: ``python -m benchmarks.tensorflow_steps``."""

from __future__ import annotations

import argparse
from statistics import quantiles

from benchmarks.network import LINKS, launch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tensorflow_steps", description=__doc__)
    parser.add_argument("--links", nargs="+", choices=LINKS, default=["1gbit", "10gbit"], metavar="LINK")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--seconds", type=float, default=60, help="for all rounds on one link")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    arguments = parser.parse_args()
    for link in arguments.links:
        cells = launch("tensorflow_steps", link, arguments.hosts, vars(arguments) | {"links": None})
        for name, cell in cells.items():
            low, middle, high = (1e3 * s for s in quantiles(cell["seconds"], n=4))
            print(
                f"{arguments.hosts} hosts {link:>9} {name:>9} {middle:8.1f} ms [{low:.1f} {high:.1f}], "
                f"{len(cell['seconds'])} rounds, {cell['sent_bytes'] / 1e6:7.2f} MB, loss {cell['losses'][-1]:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
