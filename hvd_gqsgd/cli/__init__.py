"""The command ``hvd-gqsgd``; each subcommand is a module that adds itself. Imports no framework.

doctor    what is installed, what is built, what is missing
advise    should I compress on this network, and with which setting
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import hvd_gqsgd
from hvd_gqsgd.cli import advise, doctor

COMMANDS = (doctor, advise)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return the exit status."""
    parser = argparse.ArgumentParser(prog="hvd-gqsgd", description="Gradient compression for Horovod.")
    parser.add_argument("--version", action="version", version=f"hvd_gqsgd {hvd_gqsgd.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    status: int = arguments.run(arguments)
    return status
