"""Where one step's time goes, as the main thread sees it: ``python -m benchmarks.profile``."""

from __future__ import annotations

import argparse

from benchmarks.network import LINKS, launch

CONTENDERS = ("hvd none", "hvd fp16", "gqsgd8", "gqsgd4")
LABELS = ("forward", "backward", "block_norms", "encode", "decode", "python", "submit", "wait", "optimizer", "step")


def main() -> None:
    arguments = _arguments()
    print(f"{arguments.model}, {arguments.hosts} hosts, milliseconds")
    print(f"{'link':>8} {'contender':<10}" + "".join(f"{label:>12}" for label in LABELS))
    for link in arguments.links:
        options = {name: getattr(arguments, name) for name in ("model", "contenders", "seconds", "threads")}
        for contender, seconds in launch("profile", link, arguments.hosts, options).items():
            row = "".join(f"{1e3 * seconds.get(label, 0.0):>12.2f}" for label in LABELS)
            print(f"{link:>8} {contender:<10}{row}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--links", nargs="+", choices=LINKS, default=["1gbit", "10gbit"], metavar="LINK")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--model", default="mlp", choices=("mlp", "cnn", "gpt"))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--seconds", type=float, default=30, help="for all rounds on one link")
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    return parser.parse_args()


if __name__ == "__main__":
    main()
