"""What the training benchmark's table calls holding."""

import pytest

from benchmarks.training_plot import draw
from benchmarks.training_table import endings, narrowest, tables
from benchmarks.training_worlds import LOOPBACK, REAL, World, world_of

ABOUT = {"metrics": [{"name": "loss", "higher_is_better": False}], "references": {"least": 0.5}, "numels": [900, 100]}
EIGHT = {"world": {"ranks": 8, "kind": LOOPBACK}}


def cells(**ends):
    bits = {"gqsgd8": 8, "gqsgd6": 6, "gqsgd4": 4}
    shared = {"model": "m", "optimizer": "sgd", "steps": 10, "ranks": 2}
    return [
        {**shared, "compression": name, "metrics": {"loss": values}, **({"bits": bits[name]} if name in bits else {})}
        for name, values in ends.items()
    ]


def test_a_mean_within_the_rule_on_the_worse_side_holds_and_any_better_one():
    given = cells(none=[1.0, 1.2], gqsgd8=[1.05, 1.25], gqsgd6=[0.1, 0.1], gqsgd4=[1.2, 1.3])
    ends = {end.compression: end for end in endings(given, "loss", higher_is_better=False)}
    # none: 1.1 with a standard deviation of 0.1414.
    assert ends["gqsgd8"].stds == pytest.approx(0.05 / 0.1414, rel=1e-3)
    assert ends["gqsgd8"].holds == {"1 std": True, "1 %": False}
    assert ends["gqsgd6"].holds == {"1 std": True, "1 %": True}
    assert ends["gqsgd4"].holds == {"1 std": False, "1 %": False}
    better = {e.compression: e.holds for e in endings(given, "loss", higher_is_better=True) if e.holds}
    assert better["gqsgd4"] == {"1 std": True, "1 %": True} and better["gqsgd6"] == {"1 std": False, "1 %": False}


def test_the_narrowest_that_holds_is_named_with_wider_ones_that_do_not():
    given = cells(none=[1.0, 1.2], gqsgd8=[1.3, 1.5], gqsgd6=[1.1, 1.1], gqsgd4=[1.9, 2.0])
    ends = endings(given, "loss", higher_is_better=False)
    assert narrowest(given, ends, "1 std") == "within 1 std: narrowest is gqsgd6, though not gqsgd8"
    given = cells(none=[1.0, 1.2], gqsgd8=[1.3, 1.5])
    ends = endings(given, "loss", higher_is_better=False)
    assert narrowest(given, ends, "1 std") == "within 1 std: none of gqsgd8 holds"


def test_one_seed_has_no_spread_to_judge_by():
    given = cells(none=[1.0], gqsgd8=[1.001])
    ends = endings(given, "loss", higher_is_better=False)
    assert "not judged" in narrowest(given, ends, "1 std")
    assert narrowest(given, ends, "1 %") == "within 1 %: narrowest is gqsgd8"


def test_tables_have_a_row_for_each_compression():
    document = {"models": {"m": ABOUT}, "cells": cells(none=[1.0, 1.2], gqsgd8=[1.0, 1.2])}
    text = "\n".join(tables(document))
    assert "m, sgd, 2 ranks, 10 steps; least 0.5" in text and "gqsgd8" in text and "holds" in text


def test_rows_say_what_was_sent_and_how_much_less_that_is():
    none, gqsgd8 = cells(none=[1.0, 1.2], gqsgd8=[1.0, 1.2])
    document = {"models": {"m": ABOUT}, "cells": [none | {"sent_bytes": 4000}, gqsgd8 | {"sent_bytes": 1100}]}
    _, _, head, *rows = "\n".join(tables(document)).splitlines()
    assert head.split()[4:7] == ["bits", "bytes/step", "less"]
    assert rows[0].split()[4:7] == ["32.00", "4,000", "1.00"]
    assert rows[1].split()[4:7] == ["8.80", "1,100", "3.64"]
    # Ends of columns are where they should be.
    assert {row.index(number) + len(number) for row, number in zip(rows, ("4,000", "1,100"), strict=False)} == {
        head.index("bytes/step") + len("bytes/step")
    }


def test_rows_of_runs_that_did_not_count_say_so():
    document = {"models": {"m": ABOUT}, "cells": cells(none=[1.0, 1.2])}
    assert list(tables(document))[2].split()[4:7] == ["?", "?", "?"]


def test_worlds_are_not_compared_with_each_other(tmp_path):
    pytest.importorskip("matplotlib")
    real, (none, gqsgd8) = cells(none=[1.0, 1.2]), cells(none=[2.0, 2.2], gqsgd8=[2.0, 2.2])
    document = {"models": {"m": ABOUT}, "cells": [*real, none | EIGHT, gqsgd8 | EIGHT]}
    text = "\n".join(tables(document))
    assert "m, sgd, 2 ranks, 10 steps" in text and "m, sgd, 8 workers in one process, 10 steps" in text
    assert "narrowest is gqsgd8" in text
    for cell in document["cells"]:
        cell["curve"] = {"step": [1, 2], "loss": [2.0, 1.0]}
    draw(document, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size


def test_a_cell_of_the_first_documents_was_of_real_ranks():
    assert world_of({"ranks": 2}) == World(2, REAL) and str(World(2, REAL)) == "2 ranks"
    assert world_of(EIGHT) == World(8, LOOPBACK)
