"""One exchange against the raw allreduce of as many words: ``python -m benchmarks.exchange``."""

from __future__ import annotations

import argparse
from statistics import median, quantiles

from benchmarks.network import LINKS, launch
from hvd_gqsgd.schemes.cutting import BUCKET_BYTES


def main() -> None:
    arguments = _arguments()
    columns = {"hosts": 5, "link": 9, "bits": 4, "MiB": 5, "exchange s": 24, "raw words s": 24, "ratio": 6}
    print(*(f"{name:>{width}}" for name, width in columns.items()), f"{'with kernels s':>24}")
    for hosts in arguments.hosts:
        for link in arguments.links:
            options = vars(arguments) | {"links": None}
            cells = launch("exchange", link, hosts, options)
            for bits in arguments.bits:
                raw, beside = (
                    cells[f"{what}, {bits} bits"]["seconds"] for what in ("raw words", "kernels beside raw words")
                )
                for mib in arguments.bucket_mib:
                    ours = cells[f"exchange, {bits} bits, {mib:g} MiB"]["seconds"]
                    print(
                        f"{hosts:>5} {link:>9} {bits:>4} {mib:>5g} {_spread(ours):>24} {_spread(raw):>24} "
                        f"{median(ours) / median(raw):>6.2f} {_spread(beside):>24}",
                        flush=True,
                    )


def _spread(seconds: list[float]) -> str:
    low, middle, high = quantiles(seconds, n=4)
    return f"{middle:.4f} [{low:.4f} {high:.4f}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exchange", description=__doc__)
    parser.add_argument("--links", nargs="+", choices=LINKS, default=["1gbit", "10gbit"], metavar="LINK")
    parser.add_argument("--hosts", nargs="+", type=int, default=[2])
    parser.add_argument("--bits", nargs="+", type=int, default=[8])
    parser.add_argument("--bucket-mib", nargs="+", type=float, default=[BUCKET_BYTES / (1 << 20)], help="bucket sizes")
    parser.add_argument("--model", default="mlp", help="whose gradients")
    parser.add_argument("--seconds", type=float, default=30, help="for all rounds on one link")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    return parser.parse_args()


if __name__ == "__main__":
    main()
