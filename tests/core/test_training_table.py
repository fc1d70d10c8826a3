"""What the training benchmark's table calls holding."""

import pytest

from benchmarks.training_table import endings, narrowest, tables


def cells(**ends):
    bits = {"gqsgd8": 8, "gqsgd6": 6, "gqsgd4": 4}
    shared = {"model": "m", "optimizer": "sgd", "steps": 10}
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
    about = {"metrics": [{"name": "loss", "higher_is_better": False}], "references": {"least": 0.5}}
    document = {"models": {"m": about}, "cells": cells(none=[1.0, 1.2], gqsgd8=[1.0, 1.2])}
    text = "\n".join(tables(document))
    assert "m, sgd, 10 steps; least 0.5" in text and "gqsgd8" in text and "holds" in text
