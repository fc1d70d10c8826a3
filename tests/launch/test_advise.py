"""``hvd-gqsgd advise`` in a running world: rank 0 prints, and what it measured can be used again."""

import json
import sys

from launcher import horovodrun

from hvd_gqsgd.costs.rates import Rates


def test_advise_measures_under_horovodrun(tmp_path):
    saved = tmp_path / "rates.json"
    command = [sys.executable, "-m", "hvd_gqsgd.cli", "advise", "--params", "1e6", "--seconds", "0.1"]
    result = horovodrun("-np", "2", "--gloo", *command, "--save-rates", saved, timeout=250)
    assert result.returncode == 0, result.stdout[-8000:]
    assert result.stdout.count("1,000,000 parameters in 1 tensors, 2 ranks; rates measured on 2: ") == 1
    rates = Rates.from_dict(json.loads(saved.read_text()))
    assert (rates.source, rates.ranks) == ("measured", 2)
