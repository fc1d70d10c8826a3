"""Dithers that are drawn together: each is uniform by itself, and their errors cancel in the mean."""

import numpy as np
import pytest
from scipy import stats

from hvd_gqsgd.maths import dither
from hvd_gqsgd.maths.dither import ONE, Turn
from hvd_gqsgd.schemes import GlobalQSGD
from tests.core.loopback_cases import allreduce

WORDS = np.arange(1 << 12, dtype=np.uint32)


def drawn(n, step=0, tensor=1):
    """(n, elements) random integers, one row for each rank."""
    rows = [dither.dither_of("correlated", Turn(0, step, rank, n), tensor) for rank in range(n)]
    return np.array([dither.dither_planes(row, WORDS, 4).reshape(-1) for row in rows])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 63, 64])
def test_each_rank_s_dither_is_uniform(n):
    for values in drawn(n)[:8]:
        assert values.min() >= 0 and values.max() < ONE
        assert stats.chisquare(np.bincount(values >> 8, minlength=256)).pvalue > 1e-6


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 63, 64, 1000])
def test_places_put_all_16_bit_numbers_in_one_to_one_correspondence(n):
    h = np.arange(ONE)
    for place in range(min(n, 8)):
        shift, keep, flip = dither.place_among(n, place)
        assert np.unique(((h + shift) & keep) ^ flip).size == ONE


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 64, 1000])
def test_every_rank_has_another_place_and_the_order_is_drawn_anew(n):
    orders = []
    for key in range(40):
        order = [dither.position(key, n, rank) for rank in range(n)]
        assert sorted(order) == list(range(n))
        orders.append(tuple(order))
    assert len(set(orders)) > (1 if n > 1 else 0)


@pytest.mark.parametrize("n", [2, 4, 8, 64])
def test_the_sum_of_an_even_number_of_dithers_is_constant(n):
    total = drawn(n).sum(axis=0)
    # Each mirror image is 65535 - r.
    np.testing.assert_array_equal(total, n // 2 * (ONE - 1))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 63, 64])
def test_equal_elements_are_rounded_to_the_floor_or_ceiling_of_their_sum(n):
    values = drawn(n)
    for fraction in np.linspace(0, 1, 23):
        total = (values + int(fraction * ONE) >> 16).sum(axis=0)
        assert total.min() >= np.floor(n * fraction - 1e-3) and total.max() <= np.ceil(n * fraction + 1e-3)


def squared_errors(n, kind, inputs, steps):
    scheme = GlobalQSGD(bits=5 if n < 16 else 8, dither=kind, block_size=64)
    mean = np.mean([i[0].astype(np.float64) for i in inputs], axis=0)
    return np.mean([np.sum((allreduce(scheme, inputs, step=s)[0][0] - mean) ** 2) for s in range(steps)])


@pytest.mark.parametrize("n", [2, 4, 8])
def test_unrelated_gradients_come_back_with_half_the_squared_error(n):
    rng = np.random.default_rng(n)
    inputs = [[rng.standard_normal(2048).astype(np.float32)] for _ in range(n)]
    factor = squared_errors(n, "independent", inputs, 25) / squared_errors(n, "correlated", inputs, 25)
    assert 1.7 < factor < 2.3


@pytest.mark.parametrize("n", [2, 3, 8])
def test_equal_gradients_come_back_with_one_nth_of_the_squared_error(n):
    x = np.random.default_rng(n).standard_normal(2048).astype(np.float32)
    factor = squared_errors(n, "independent", [[x]] * n, 25) / squared_errors(n, "correlated", [[x]] * n, 25)
    assert 0.8 * n < factor < 1.2 * n
