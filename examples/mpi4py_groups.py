"""Which learning rate is better? One MPI job tries several at once, each on ranks of its own.

    horovodrun --mpi -np 4 python examples/mpi4py_groups.py --bits 4

mpi4py splits the ranks into groups; a group is all that Horovod and GlobalQSGD know of. Afterwards mpi4py compares what
the groups have found.
"""

from __future__ import annotations

import digits
import horovod.torch as hvd
from mpi4py import MPI
from torch_digits import train

#: One group for each, of ``--lr``.
FACTORS = (1.0, 0.1)


def main() -> None:
    args = digits.parse_arguments(__doc__)
    world = MPI.COMM_WORLD
    number = world.rank % len(FACTORS)
    group = world.Split(color=number, key=world.rank)

    hvd.init(comm=group)
    if hvd.size() != group.size:
        # Without MPI, Horovod takes a communicator and does not look at it.
        raise SystemExit(
            f"expected Horovod's size to be {group.size}, got {hvd.size()}; start this with horovodrun --mpi"
        )

    args.lr *= FACTORS[number]
    result = train(args)

    results = world.gather((args.lr, result) if hvd.rank() == 0 else None)
    if world.rank == 0:
        tried = [found for found in results if found is not None]
        for rate, found in tried:
            print(f"learning rate {rate:g}: accuracy {found['accuracy']:.4f} on {found['ranks']} ranks")
        best, result = max(tried, key=lambda found: found[1]["accuracy"])
        print(f"learning rate {best:g} was best")
        digits.report(args, **result)


if __name__ == "__main__":
    main()
