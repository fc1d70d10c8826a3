"""What is recommended, planned, drawn and compared."""

import dataclasses
import math
import sys

import pytest

from hvd_gqsgd.costs import check, planning, plot
from hvd_gqsgd.costs.advice import FEWEST_LEVELS, NARROWER_GAIN, OPERATIONS_SAVED, advise
from hvd_gqsgd.costs.choices import FP16, NONE, Choice
from hvd_gqsgd.costs.model import aggregation_seconds
from hvd_gqsgd.errors import SettingsError
from tests.core.cost_cases import IDEAL, REAL

MODEL = [1 << 22] * 10


def test_a_slow_link_wants_eight_bits():
    advice = advise(IDEAL, MODEL)
    assert advice.best.choice.code == "compression=GlobalQSGD(bits=8)"
    assert advice.best.gain == pytest.approx(3.94, abs=0.01)
    assert advice.sentence == "Use GlobalQSGD with 8 bits: aggregation is predicted to take 3.9 x less time (+-20%)."


def test_a_fast_link_wants_nothing():
    advice = advise(REAL.on_link(1e12), MODEL)
    assert advice.best.choice.code == "compression=hvd.Compression.none"
    assert advice.best.gain == 1
    assert advice.sentence.startswith("Do not compress: the fastest setting (")


def test_a_gain_within_the_error_is_no_gain():
    assert advise(dataclasses.replace(IDEAL, error=5.0), MODEL).best.choice.name == "none"


def test_a_gain_of_a_few_operations_is_no_gain():
    saved_s = aggregation_seconds(IDEAL, NONE, MODEL) - aggregation_seconds(IDEAL, Choice.of_bits(8), MODEL)
    slow_to_answer = dataclasses.replace(IDEAL, latency_s=saved_s / (OPERATIONS_SAVED + 3))
    assert advise(slow_to_answer, MODEL).best.choice.name == "8 bits"
    slower = dataclasses.replace(IDEAL, latency_s=saved_s / (OPERATIONS_SAVED - 1))
    advice = advise(slower, MODEL)
    assert advice.best.choice.name == "none"
    assert f"and {1e3 * OPERATIONS_SAVED * slower.latency_s:.1f} ms" in advice.sentence


def test_narrower_widths_need_a_large_gain():
    assert advise(IDEAL, MODEL).best.choice.name == "8 bits"
    slow = dataclasses.replace(IDEAL.kernels[8], encode=1e7)
    assert NARROWER_GAIN < 2
    without_eight = dataclasses.replace(IDEAL, kernels={**IDEAL.kernels, 8: slow})
    assert advise(without_eight, MODEL).best.choice.name in {"6 bits", "5 bits"}


@pytest.mark.parametrize(("n", "name"), [(2, "8 bits"), (18, "8 bits"), (19, "10 bits"), (73, "10 bits"), (74, "fp16")])
def test_levels_decide_the_width_in_large_worlds(n, name):
    advice = advise(IDEAL, MODEL, n)
    assert advice.best.choice.name == name
    assert advice.best.levels is None or advice.best.levels >= FEWEST_LEVELS


def test_too_few_levels_are_a_warning_that_names_enough():
    assert (
        advise(IDEAL, MODEL, 32).warnings[0]
        == "8 bits: L = 3 on 32 ranks; so few levels make noisy gradients, 10 bits keep at least 7."
    )


def test_bytes_on_the_wire_are_a_rings():
    rows = {row.choice.name: row for row in advise(IDEAL, [1_000_000], 4).predictions}
    assert rows["none"].wire_bytes == 2 * 3 / 4 * 4e6
    assert rows["fp16"].wire_bytes == rows["none"].wire_bytes / 2


def test_the_plan_covers_every_size_and_link():
    rows = planning.plan(REAL, MODEL)
    assert len(rows) == len(planning.RANKS) * len(planning.GBITS) == 50
    assert all(row.gain >= 1 for row in rows)
    at_one = {row.ranks: row.setting for row in rows if row.gbit == 1}
    assert (at_one[2], at_one[32]) == ("8 bits", "10 bits")
    lines = list(planning.table(rows))
    assert lines[0].split()[:3] == ["ranks", "1", "Gbit/s"]
    assert [int(line.split()[0]) for line in lines[1:]] == [2**power for power in range(1, 11)]


def test_the_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    plot.draw(planning.plan(REAL, MODEL), tmp_path / "plan.png", "a title")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SettingsError, match=r"plan.nothing: expected a file that can be written"):
        plot.draw(planning.plan(REAL, MODEL), tmp_path / "plan.nothing", "a title")


def test_the_plot_without_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingsError, match="expected matplotlib, got .*; write `pip install matplotlib`"):
        plot.draw([], tmp_path / "plan.png", "a title")


def results(*cells, rates=REAL):
    run = {"link": "1gbit", "rates": rates.to_dict(), "models": {"mlp": {"numels": MODEL}}, "cells": list(cells)}
    return {"format": 1, "runs": [run]}


def cell(contender, kind, *seconds):
    return {"model": "mlp", "contender": contender, "kind": kind, "seconds": list(seconds)}


def test_predictions_beside_measurements():
    fp16_s = aggregation_seconds(REAL, FP16, MODEL)
    eight_s = aggregation_seconds(REAL, Choice.of_bits(8), MODEL)
    found = check.cells(
        results(
            cell("hvd fp16", "aggregation", 2 * fp16_s, 9 * fp16_s, fp16_s),
            cell("gqsgd8", "aggregation", 0.8 * eight_s),
            cell("ddp none", "aggregation", 1.0),
            cell("gqsgd4", "step", 1.0),
        )
    )
    assert [c.contender for c in found] == ["hvd fp16", "gqsgd8"]
    assert [c.error for c in found] == pytest.approx([0.5, 0.25])
    assert check.errors(found, "aggregation") == pytest.approx((0.375, 0.5))
    assert check.errors(found, "step") is None


def test_rates_measured_beside_a_model_come_first():
    found = results(cell("hvd none", "aggregation", 1.0))
    found["runs"][0]["models"]["mlp"]["rates"] = IDEAL.to_dict()
    assert check.cells(found)[0].predicted_s == aggregation_seconds(IDEAL, Choice("none"), MODEL)
    del found["runs"][0]["models"]["mlp"]["rates"], found["runs"][0]["rates"]
    assert check.cells(found) == []


@pytest.mark.parametrize(("contender", "kind"), [("hvd none", "compute"), ("local", "step")])
def test_steps_are_predicted_where_compute_is_measured(contender, kind):
    (step,) = check.cells(results(cell(contender, kind, 3.0), cell("hvd none", "step", 2.0)))
    hidden = 0.5 * min(aggregation_seconds(REAL, Choice("none"), MODEL), 2.0)
    assert step.kind == "step"
    assert step.predicted_s == pytest.approx(3.0 + aggregation_seconds(REAL, Choice("none"), MODEL) - hidden)
    assert math.isfinite(step.error)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "r.json: expected a benchmark's results with \"format\": 1, got 'list'"),
        ({"format": 2}, 'r.json: expected a benchmark\'s results with "format": 1, got 2'),
        ({"format": 1}, 'r.json: expected "runs" with .* \\(KeyError'),
        ({"format": 1, "runs": [{"link": "x"}]}, 'r.json: expected "runs" with'),
    ],
)
def test_other_files_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        check.cells(wrong, "r.json")
