"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.accuracy import block_sizes
from benchmarks.accuracy.dithers import SIGMAS, TESTED, Row, expected_largest
from benchmarks.accuracy.measure import Cell

#: The width at which a table sets the paper's method against ours.
SHARED_BITS = "8"


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """One table for each source: NMSE, the spread of seeds in percent of it, bits on the wire per element."""
    for source, here in _grouped(cells, "source").items():
        ns = sorted({c.n for c in here})
        yield f"\n{source}: NMSE ± spread (bits)\n"
        yield from _head(["contender", "width", *(f"n = {n}" for n in ns)])
        rows: dict[tuple[str, str], dict[int, Cell]] = {}
        for cell in sorted(here, key=lambda c: c.n):
            rows.setdefault((cell.line, cell.setting), {})[cell.n] = cell
        # The narrowest widths come last where they serve few workers only; put them where they belong.
        order = list(dict.fromkeys(line for line, _ in rows))
        for line, setting in sorted(rows, key=lambda key: (order.index(key[0]), len(key[1]), key[1])):
            values = [_value(rows[line, setting].get(n)) for n in ns]
            yield f"| {line} | {setting} | " + " | ".join(values) + " |"
    yield from factors(cells)


def factors(cells: Sequence[Cell]) -> Iterator[str]:
    """NMSE of the paper's standard dithering over that of ours, by source and n, in lanes of 8 bits."""
    nmse = {(c.source, c.n, c.line): c.nmse for c in cells if c.setting == SHARED_BITS}
    ns = sorted({n for _, n, line in nmse if line == "ours"})
    yield f"\nNMSE of paper standard / NMSE of ours, both in lanes of {SHARED_BITS} bits\n"
    yield from _head(["gradients", *(f"n = {n}" for n in ns)])
    for source in dict.fromkeys(c.source for c in cells):
        values = [nmse[source, n, "paper standard"] / nmse[source, n, "ours"] for n in ns]
        yield f"| {source} | " + " | ".join(f"{value:,.3g}" for value in values) + " |"


def dither_table(rows: Iterable[Row]) -> Iterator[str]:
    """Rows as they come."""
    expected = expected_largest(TESTED)
    yield f"max |z| of {TESTED} elements: expected {expected:.1f}, biased above {SIGMAS}\n"
    yield from _head(
        [
            *("gradients", "n", "bits", "plain: independent", "correlated", "factor"),
            *("rotated: independent", "correlated", "factor"),
            *("max z independent", "correlated", "nearest"),
        ]
    )
    for row in rows:
        pairs = [f"{i:.2e} | {c:.2e} | {i / c:.2f}" for i, c in (row.plain, row.rotated)]
        largest = [f"{z:.1f}{' biased' if z > SIGMAS else ''}" for z in row.largest.values()]
        yield "| " + " | ".join([row.source, str(row.n), str(row.bits), *pairs, *largest]) + " |"


def block_table(rows: Iterable[block_sizes.Row], sizes: Sequence[int]) -> Iterator[str]:
    """Rows as they come."""
    reference = block_sizes.REFERENCE
    yield f"NMSE / NMSE of blocks of {reference} (bits on the wire per element), lanes of {block_sizes.BITS} bits\n"
    yield from _head(["gradients", "n", f"NMSE of {reference}", *map(str, sizes), "spread"])
    for row in rows:
        values = [f"{row.relative[size]:.2f} ({row.bits[size]:.2f})" for size in sizes]
        yield "| " + " | ".join([row.source, str(row.n), f"{row.nmse:.2e}", *values, f"{row.spread:.3f}"]) + " |"


def to_json(cells: Sequence[Cell]) -> dict[str, Any]:
    """Nested by source, n and line, with few digits."""
    nested: dict[str, Any] = {}
    for c in cells:
        row = [c.setting, round(c.bits, 2), float(f"{c.nmse:.3g}"), float(f"{c.spread:.2g}")]
        nested.setdefault(c.source, {}).setdefault(str(c.n), {}).setdefault(c.line, []).append(row)
    return {"columns": list(Cell._fields[3:]), "results": nested}


def from_json(content: dict[str, Any]) -> list[Cell]:
    """What ``to_json`` made."""
    return [
        Cell(source, int(n), line, *row)
        for source, by_n in content["results"].items()
        for n, lines in by_n.items()
        for line, rows in lines.items()
        for row in rows
    ]


def _value(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.nmse:.2e} ± {100 * cell.spread / cell.nmse:.0f} % ({cell.bits:.3g})"


def _head(columns: list[str]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|---" * len(columns) + "|"


def _grouped(cells: Iterable[Cell], by: str) -> dict[Any, list[Cell]]:
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(getattr(cell, by), []).append(cell)
    return groups
