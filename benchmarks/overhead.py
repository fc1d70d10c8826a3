"""Python's part of the cost, per gradient: ``python -m benchmarks.overhead``."""

from __future__ import annotations

import argparse
from statistics import quantiles

from benchmarks.network import launch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--tensors", nargs="+", type=int, default=[160, 2000], help="numbers of parameters")
    arguments = parser.parse_args()
    measured = launch("overhead", "loopback", 2, {"tensors": arguments.tensors})
    print("compress and decompress of one gradient, without Horovod's calls and the kernels, on 2 ranks:")
    for count, seconds in measured.items():
        low, middle, high = (1e6 * s for s in quantiles(seconds, n=4))
        print(f"{count:>6} tensors: {middle:5.1f} us [{low:.1f} {high:.1f}]")


if __name__ == "__main__":
    main()
