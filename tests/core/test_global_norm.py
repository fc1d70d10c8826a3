"""The general global norm ||x||_{q,p}, against its definition."""

import math

import numpy as np
import pytest

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels.layout import NORMS_HEADER
from hvd_gqsgd.schemes import GlobalQSGD
from tests.core.loopback_cases import allreduce, buckets_for, gaussian, run

INF = math.inf
NORMS = [(2, 2), (INF, 1), (1, INF), (2, INF), (1.5, 3), (32, 32)]


def scheme(norm, **more):
    return GlobalQSGD(norm=norm, exchange="two_phase", rotation=None, **more)


def agreed(scheme, inputs):
    """The norms that every rank encodes with."""
    buckets = buckets_for(scheme, inputs)
    run(scheme, buckets, inputs)
    norms = [bucket.scratch["agreed norms"][NORMS_HEADER:] for bucket in buckets]
    for other in norms[1:]:
        np.testing.assert_array_equal(other, norms[0])
    return norms[0]


def norm_of(rows, q, p):
    """||x||_{q,p} of (n, m), one block on n ranks."""
    own = np.linalg.norm(rows.astype(np.float64), q, axis=1)
    return np.linalg.norm(own, p)


@pytest.mark.parametrize("levels", ["uniform", "exponential"])
@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("norm", NORMS)
def test_norms_are_those_of_the_definition_rounded_up(norm, n, levels):
    inputs = gaussian(n, (1000, 7, 256))
    norms = agreed(scheme(norm, levels=levels), inputs)
    rows = [
        np.array([i[t][s : s + 256] for i in inputs]) for t, m in enumerate((1000, 7, 256)) for s in range(0, m, 256)
    ]
    assert norms.size == len(rows) == 6
    for got, block in zip(norms, rows, strict=True):
        exact = norm_of(block, *norm)
        assert np.abs(block).max() <= got and 0 <= got - exact * (1 - 1e-12) <= 2.0**-22 * exact


@pytest.mark.parametrize("levels", ["uniform", "exponential"])
@pytest.mark.parametrize("norm", NORMS[:3])
def test_the_mean_is_right_under_any_norm(norm, levels):
    inputs, made = gaussian(3, (512,)), scheme(norm, levels=levels)
    errors = [allreduce(made, inputs, step=s)[0][0] - np.mean([i[0] for i in inputs], axis=0) for s in range(100)]
    assert np.all(
        np.abs(np.mean(errors, axis=0)) < 5 * np.std(errors, axis=0) / 10 + 0.02 * np.max(agreed(made, inputs))
    )
    assert np.abs(np.mean(errors)) < 5 * np.std(np.mean(errors, axis=1)) / 10 + 1e-4


def test_zero_blocks_and_infinite_blocks_keep_their_norms_and_no_norm_leaves_float32():
    x = np.ones(1280, np.float32)
    x[:256], x[300], x[512:768], x[768:1024] = 0, np.nan, 3e38, 2.0**-149
    norms = agreed(scheme((1, 1)), [[x], [x]])
    assert norms[0] == 0 and np.isinf(norms[1]) and norms[2] == np.finfo(np.float32).max
    assert norms[3] == np.float32(512 * 2.0**-149) and norms[4] == 512


def test_what_was_left_over_counts():
    made, inputs = scheme((2, INF), error_feedback=True), [[np.ones(256, np.float32)]]
    buckets = buckets_for(made, inputs)
    buckets[0].residuals = [np.full(256, 2, np.float32)]
    run(made, buckets, inputs)
    assert buckets[0].scratch["agreed norms"][NORMS_HEADER] == 48


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"norm": 2},
            r"norm=2\): expected \(q, p\), each from 1 to 32 or math\.inf, got 2; write for instance norm=\(",
        ),
        ({"norm": (0.5, 2)}, r"expected \(q, p\), each from 1 to 32"),
        ({"norm": (2, math.nan)}, r"expected \(q, p\)"),
        ({"norm": (2, True)}, r"expected \(q, p\)"),
        ({"norm": (2, 2), "exchange": "ring"}, r"exchange='ring'\): expected exchange='two_phase' with any norm but"),
        ({"norm": (2, 2), "rotation": "hadamard"}, r"write rotation=None, or leave norm out"),
    ],
)
def test_settings_that_do_not_go_with_it(settings, said):
    with pytest.raises(SettingsError, match=said):
        GlobalQSGD(**{"exchange": "two_phase", "rotation": None, **settings})


def test_a_list_is_a_pair_and_the_repr_evaluates_back():
    made = scheme([2, INF])
    assert made.norm == (2, INF) and eval(repr(made)) == made and hash(eval(repr(made))) == hash(made)
    assert GlobalQSGD(norm=(INF, INF)) == GlobalQSGD()
