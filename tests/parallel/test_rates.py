"""What a running world measures about itself."""

from __future__ import annotations

import json
import math

import horovod.torch as hvd
import pytest
import torch

from hvd_gqsgd.costs.rates import Rates
from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.torch import traffic
from hvd_gqsgd.torch.rates import measure_rates


def test_every_rank_has_the_same_rates(several):
    before = traffic.sent_bytes, traffic.dense_bytes
    rates = measure_rates(seconds=0.1)
    text = json.dumps(rates.to_dict(), allow_nan=False)
    assert hvd.allgather_object(text) == [text] * several
    assert Rates.from_dict(json.loads(text)) == rates
    assert (rates.source, rates.ranks, rates.threads) == ("measured", several, torch.get_num_threads())
    for value in (rates.latency_s, rates.bandwidth, rates.cast, *rates.reduce.values()):
        assert 0 < value < math.inf
    # A measurement is no training.
    assert (traffic.sent_bytes, traffic.dense_bytes) == before


def test_a_world_of_one_has_no_network():
    if hvd.size() > 1:
        alone = hvd.add_process_set([0])
        try:
            if hvd.rank() == 0:
                with pytest.raises(SettingsError, match="in a world of 1 rank: expected 2 or more"):
                    measure_rates(alone)
        finally:
            hvd.remove_process_set(alone)
    else:
        with pytest.raises(SettingsError, match="in a world of 1 rank: expected 2 or more"):
            measure_rates()
