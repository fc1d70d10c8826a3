"""Every contender with its widths: a line of a plot, and rows of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.accuracy.contenders.base import Estimate
from benchmarks.accuracy.contenders.exponential import exponential
from benchmarks.accuracy.contenders.half import half
from benchmarks.accuracy.contenders.intsgd import intsgd
from benchmarks.accuracy.contenders.powersgd import powersgd
from benchmarks.accuracy.contenders.qsgd import qsgd
from benchmarks.accuracy.contenders.standard import standard
from benchmarks.accuracy.contenders.thc import thc
from benchmarks.accuracy.gradients import Gradients
from benchmarks.accuracy.ours import fits, ours
from hvd_gqsgd.schemes import GlobalQSGD

OURS = {
    "ours plain": {"rotation": None, "dither": "independent"},
    "ours plain, correlated": {"rotation": None, "dither": "correlated"},
    "ours rotated": {"rotation": "hadamard", "dither": "independent"},
    "ours": {},
}
# Lanes share 32-bit words: 7 bits take as many words as 8, 9 as 10, 11 to 15 as 16.
OURS_WIDTHS = {name: (4, 6, 8, 10, 16) for name in OURS} | {"ours": (3, 4, 5, 6, 8, 10, 16)}
STANDARD_WIDTHS = (4, 5, 6, 8, 10, 12, 16)

#: A line's name, with the colour that plots give it.
COLORS = {
    "paper standard": "tab:red",
    "paper exponential": "tab:orange",
    "QSGD max": "tab:purple",
    "QSGD l2": "tab:pink",
    "PowerSGD": "tab:olive",
    "THC switch": "0.65",
    "THC ring": "0.3",
    "IntSGD int8": "tab:brown",
    "IntSGD int32": "sandybrown",
    "fp16": "black",
    "ours plain": "lightskyblue",
    "ours plain, correlated": "tab:cyan",
    "ours rotated": "mediumseagreen",
    "ours": "tab:blue",
}


class Entry(NamedTuple):
    """A contender at one width. setting: the width, a rank or nothing, as tables show it."""

    line: str
    setting: str
    estimate: Callable[[Gradients, np.random.Generator], Estimate]


def entries(n: int) -> Iterator[Entry]:
    """Every contender at every width at which it serves n workers."""
    for bits in STANDARD_WIDTHS:
        if fits(bits, n):
            yield Entry("paper standard", str(bits), partial(standard, bits=bits))
    if n & (n - 1) == 0:
        yield Entry("paper exponential", "8", exponential)
    for norm, widths in {"max": (2, 4, 8), "l2": (4, 8)}.items():
        for bits in widths:
            yield Entry(f"QSGD {norm}", str(bits), partial(qsgd, bits=bits, norm=norm))
    for rank in (1, 2, 4, 8):
        yield Entry("PowerSGD", f"r{rank}", partial(powersgd, rank=rank))
    for ring in (False, True):
        yield Entry("THC ring" if ring else "THC switch", "4", partial(thc, ring=ring))
    if fits(8, n):
        yield Entry("IntSGD int8", "8", partial(intsgd, bits=8))
    yield Entry("IntSGD int32", "", partial(intsgd, bits=None))
    yield Entry("fp16", "16", half)
    for name, settings in OURS.items():
        for bits in OURS_WIDTHS[name]:
            if fits(bits, n):
                scheme = GlobalQSGD(bits=bits, **settings)  # type: ignore[arg-type]
                yield Entry(name, str(bits), partial(ours, scheme=scheme))
