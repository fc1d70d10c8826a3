"""Two phases in the cost model: their seconds, and the width that errs as little as a ring."""

import numpy as np
import pytest

from hvd_gqsgd.costs import two_phases
from hvd_gqsgd.costs.advice import advise
from hvd_gqsgd.costs.choices import Choice
from hvd_gqsgd.costs.model import aggregation_seconds
from hvd_gqsgd.kernels.compiled import CompiledKernels
from hvd_gqsgd.schemes import GlobalQSGD
from tests.core.cost_cases import IDEAL, REAL
from tests.core.loopback_cases import allreduce

MODEL = [5_000_000] * 5


@pytest.mark.parametrize("n", [2, 8, 32])
def test_variances_are_those_of_the_schemes(n):
    """Of elements in [-M, M] whose mean is as large: equal ranks."""
    x = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
    x[::256] = 1
    # Equal elements would make correlated errors cancel; signs that differ from rank to rank do not change |x|.
    draws = np.random.default_rng(1)
    inputs = [[(x * draws.choice([0.99, 1.0], x.size)).astype(np.float32)] for _ in range(n)]
    mean = np.mean([tensors[0] for tensors in inputs], axis=0)
    for exchange, expected in (("ring", two_phases.variance_in_ring), ("two_phase", two_phases.variance_in_two_phases)):
        scheme = GlobalQSGD(bits=8, exchange=exchange, rotation=None)
        (out,), *_ = allreduce(scheme, inputs, kernels=CompiledKernels())
        assert ((out - mean) ** 2).mean() == pytest.approx(expected(8, n), rel=1.0)


def test_two_phases_take_longer_than_a_ring_of_as_many_bits_and_less_than_one_of_twice_as_many():
    for n in (2, 8, 64):
        ring, wide = (aggregation_seconds(IDEAL, Choice.of_bits(bits), MODEL, n) for bits in (8, 16))
        assert ring < two_phases.aggregation_seconds(IDEAL, 8, MODEL, n) < wide


def test_nothing_to_send_takes_no_time():
    assert two_phases.aggregation_seconds(REAL, 8, MODEL, 1) == 0
    assert two_phases.aggregation_seconds(REAL, 8, [100], 8) == 0


def test_advice_names_two_phases_where_they_err_less_and_only_there():
    slow = REAL.on_link(1e8)
    assert not any("two phases" in text for text in advise(slow, MODEL, 2).warnings)
    (text,) = (text for text in advise(slow, MODEL, 64).warnings if "two phases" in text)
    assert "8 bits err" in text and "GlobalQSGD(bits=8, exchange='two_phase')" in text
