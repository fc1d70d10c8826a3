"""Names of variables that are the same on every rank, whatever else a rank has built before."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBERED = re.compile(r"(.+?)_(\d+)$")


def labels_of(names: Sequence[str]) -> list[str]:
    """One label for each variable name, all different.

    Keras numbers the layers of a process: a rank that made another model first has dense_2 where the others have
    dense. So numbers are counted anew among ``names``. Names that occur twice are told apart by their order.

    >>> labels_of(["dense_2/kernel:0", "dense_3/kernel:0", "head/bias:0"])
    ['dense/kernel', 'dense_1/kernel', 'head/bias']
    >>> labels_of(["kernel:0", "kernel:0"])
    ['kernel', 'kernel#1']
    """
    paths = [name.removesuffix(":0").split("/") for name in names]
    labels: list[list[str]] = [[] for _ in paths]
    for depth in range(max(map(len, paths), default=0)):
        numbers: dict[tuple[str, ...], set[int]] = {}
        parts = {}
        for index, path in enumerate(paths):
            if depth < len(path):
                base, number = _split(path[depth])
                group = (*labels[index], base)
                parts[index] = (group, base, number)
                numbers.setdefault(group, set()).add(number)
        for index, (group, base, number) in parts.items():
            place = sorted(numbers[group]).index(number)
            labels[index].append(f"{base}_{place}" if place else base)
    return _all_different(["/".join(label) for label in labels])


def _split(component: str) -> tuple[str, int]:
    found = _NUMBERED.match(component)
    return (found[1], int(found[2])) if found else (component, -1)


def _all_different(labels: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    different = []
    for label in labels:
        count = seen[label] = seen.get(label, -1) + 1
        different.append(f"{label}#{count}" if count else label)
    return different
