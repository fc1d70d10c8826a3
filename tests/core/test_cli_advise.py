"""``hvd-gqsgd advise``: its output, its files, and what it says about bad input."""

import json

import pytest

from hvd_gqsgd import cli
from hvd_gqsgd.costs import machine
from hvd_gqsgd.costs.choices import FP16
from hvd_gqsgd.costs.model import aggregation_seconds
from hvd_gqsgd.costs.rates import Rates
from tests.core.cost_cases import IDEAL, REAL


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rates_file(tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(IDEAL.to_dict()))
    return str(path)


def said(capsys, *arguments):
    status = cli.main(["advise", *map(str, arguments)])
    return status, capsys.readouterr()


def test_table_sentence_and_line_to_write(capsys, rates_file):
    status, output = said(capsys, "--rates", rates_file, "--params", "25e6")
    assert status == 0
    lines = output.out.splitlines()
    assert lines[0].startswith("25,000,000 parameters in 24 tensors, 2 ranks; rates given on 2: 100 MB/s")
    assert lines[2].split() == ["setting", "MB", "sent", "seconds", "gain", "levels"]
    assert lines[3].split() == ["none", "100.00", "1.0000", "1.00", "x", "-"]
    assert [line.split()[0] for line in lines[3:12]] == ["none", "fp16", "16", "10", "8", "6", "5", "4", "3"]
    assert lines[7].endswith("63 <")
    assert "Use GlobalQSGD with 8 bits: aggregation is predicted to take 3.9 x less time (+-20%)." in lines
    assert "    opt = hvd.DistributedOptimizer(opt, ..., compression=GlobalQSGD(bits=8))" in lines


def test_another_world_and_link_than_the_rates_are_of(capsys, rates_file):
    _, output = said(capsys, "--rates", rates_file, "--params", "25e6", "--ranks", 64, "--gbit", 1, "--plan")
    assert "64 ranks; rates given on 2: 118 MB/s" in output.out
    assert "8 bits: L = 1 on 64 ranks" in output.out
    assert "compression=GlobalQSGD(bits=10)" in output.out
    assert output.out.splitlines()[-1].split()[0] == "1024"


def test_files(capsys, rates_file, tmp_path):
    model, written, saved = tmp_path / "model.json", tmp_path / "advice.json", tmp_path / "saved.json"
    model.write_text("[1000000, 2000000]")
    arguments = ["--rates", rates_file, "--model-file", model, "--json", written, "--save-rates", saved]
    assert said(capsys, *arguments)[0] == 0
    assert Rates.from_dict(json.loads(saved.read_text())) == IDEAL
    advice = json.loads(written.read_text())
    assert advice["numels"] == [1_000_000, 2_000_000]
    assert advice["recommended"] == "8 bits"
    assert advice["predictions"][0]["seconds"] == pytest.approx(0.12)
    assert len(advice["plan"]) == 50


def test_a_network_that_is_told(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "given_rates", lambda **told: TOLD.append(told) or REAL)
    TOLD = []
    status, output = said(capsys, "--ranks", 8, "--gbit", 10, "--latency-ms", 0.2, "--params", "1e6")
    assert status == 0
    assert TOLD[0]["ranks"] == 8
    assert TOLD[0]["hop_s"] == pytest.approx(2e-4)
    assert TOLD[0]["bandwidth"] == pytest.approx(1.25e9 * 1448 / 1538)
    assert "8 ranks" in output.out


def test_this_machines_own_speeds():
    rates = machine.given_rates(ranks=4, bandwidth=1e9, hop_s=1e-4, rounds=1)
    assert (rates.source, rates.ranks, rates.bandwidth) == ("given", 4, 1e9)
    assert rates.latency_s == pytest.approx(1e-3 + 3 * 4 * 1e-4)
    assert Rates.from_dict(rates.to_dict()) == rates


def test_check(capsys, tmp_path):
    measured = 2 * aggregation_seconds(REAL, FP16, [1_000_000])
    run = {
        "link": "1gbit",
        "rates": REAL.to_dict(),
        "models": {"mlp": {"numels": [1_000_000]}},
        "cells": [{"model": "mlp", "contender": "hvd fp16", "kind": "aggregation", "seconds": [measured]}],
    }
    (tmp_path / "r.json").write_text(json.dumps({"format": 1, "runs": [run]}))
    status, output = said(capsys, "--check", tmp_path / "r.json")
    assert status == 0
    lines = output.out.splitlines()
    predicted = f"{measured / 2:.4f}s"
    assert lines[1].split() == ["1gbit", "mlp", "hvd", "fp16", "aggregation", predicted, f"{measured:.4f}s", "50%"]
    assert lines[-1] == "aggregation: median error 50%, worst 50%, of 1 cells"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model: expected --params or --model-file, got neither; write for instance --params 25e6"),
        (["--params", "1", "--model-file", "x"], "model: expected --params or --model-file, got both"),
        (["--params", "many"], "--params many: expected a number of parameters, got 'many'"),
        (["--params", "-5"], "--params -5: expected a number of parameters"),
        (["--params", "1e6"], "network: expected --ranks and --gbit, or a running world, or --rates"),
        (["--params", "1e6", "--ranks", "1", "--gbit", "1"], "--ranks 1: expected 2 or more"),
        (["--params", "1e6", "--ranks", "2", "--gbit", "0"], "--gbit 0.0: expected a number of more than 0, got 0.0"),
        (["--params", "1e6", "--ranks", "2", "--latency-ms", "nan"], "--latency-ms nan: expected a number of 0"),
        (["--params", "1e6", "--rates", "nowhere.json"], "nowhere.json: expected a JSON file, got"),
        (["--model-file", "{dict}", "--ranks", "2"], "expected a JSON list of positive integers, got {'a': 1}; write"),
        (["--params", "1e6", "--rates", "{dict}"], "rates: expected an object with the keys source"),
        (["--check", "{dict}"], 'expected a benchmark\'s results with "format": 1, got None'),
        (["--check", "{empty}"], "expected cells of kind aggregation or step in runs with rates, got none"),
        (["--params", "1e6", "--rates", "{rates}", "--json", "/nowhere/x"], "expected a file that can be written"),
    ],
)
def test_bad_input_says_what_to_write(arguments, message, capsys, tmp_path, rates_file):
    files = {"dict": {"a": 1}, "empty": {"format": 1, "runs": []}}
    paths = {"rates": rates_file}
    for name, value in files.items():
        paths[name] = str(tmp_path / f"{name}.json")
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    status, output = said(capsys, *[a.format(**paths) if a.startswith("{") else a for a in arguments])
    assert status == 2
    assert output.err.startswith("hvd-gqsgd advise: ")
    assert message in output.err
    assert output.err.count("\n") == 1
