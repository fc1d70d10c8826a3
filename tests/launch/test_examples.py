"""The examples train on real data, and report what they sent."""

import json
import runpy
import sys

import pytest
from launcher import ROOT, TRANSPORTS, horovodrun


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("arguments", "less"), [(["none"], 1), (["gqsgd", "--bits", "4"], 7.5)])
@pytest.mark.parametrize("example", ["torch", "tensorflow", "keras", "keras3"])
def test_digits(example, transport, arguments, less, tmp_path):
    report = tmp_path / "report.json"
    example = [sys.executable, ROOT / "examples" / f"{example}_digits.py", "--report", report, "--epochs", "8"]
    result = horovodrun("-np", "2", f"--{transport}", *example, "--compression", *arguments, timeout=250)
    assert result.returncode == 0, result.stdout[-4000:]
    said = json.loads(report.read_text())
    assert said["ranks"] == 2
    assert said["accuracy"] > 0.95
    assert said["uncompressed_bytes_per_step"] / said["bytes_per_step"] >= less


@pytest.mark.parametrize(
    ("example", "compression", "less"),
    [
        ("torch", "two_phase", 3.5),
        ("torch", "exponential", 3.5),
        ("torch", "dqsgd", 6.0),
        ("torch", "marsit", 6.0),
        ("torch", "gradiveq", 3.5),
        ("tensorflow", "marsit", 6.0),
        ("keras", "gradiveq", 3.5),
        ("keras3", "two_phase", 3.5),
    ],
)
def test_digits_with_the_other_systems(example, compression, less, tmp_path):
    report = tmp_path / "report.json"
    script = [sys.executable, ROOT / "examples" / f"{example}_digits.py", "--report", report, "--epochs", "6"]
    result = horovodrun("-np", "2", "--gloo", *script, "--compression", compression, timeout=250)
    assert result.returncode == 0, result.stdout[-4000:]
    said = json.loads(report.read_text())
    assert said["accuracy"] > 0.85
    assert said["uncompressed_bytes_per_step"] / said["bytes_per_step"] >= less


def test_the_table_of_the_demo():
    row_of = runpy.run_path(str(ROOT / "examples" / "demo.py"))["row_of"]
    said = {"compression": "gqsgd", "bits": 4, "accuracy": 0.98, "uncompressed_bytes_per_step": 605_224, "seconds": 2.0}
    assert row_of([{**said, "ranks": 2, "bytes_per_step": 79_864}]).split()[3:] == ["0.9800", "79,864", "7.58x", "2.0"]
    assert row_of([{**said, "ranks": 1, "bytes_per_step": 0}]).split()[3:] == ["0.9800", "sends", "nothing", "-", "2.0"]
