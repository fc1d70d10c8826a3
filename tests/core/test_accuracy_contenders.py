"""The contenders of benchmarks.accuracy do what their papers say."""

import zlib
from functools import partial

import numpy as np
import pytest

from benchmarks.accuracy import block_sizes, dithers, synthetic
from benchmarks.accuracy.contenders import base, exponential, half, intsgd, powersgd, qsgd, standard, thc
from benchmarks.accuracy.contenders.exponential import Codes
from benchmarks.accuracy.gradients import Gradients, Tensor
from benchmarks.accuracy.lines import COLORS, entries
from benchmarks.accuracy.measure import Cell, Source
from benchmarks.accuracy.ours import ours
from benchmarks.accuracy.tables import block_table, from_json, tables, to_json
from hvd_gqsgd.maths import rotation
from hvd_gqsgd.schemes import GlobalQSGD

TILE, TILES = 512, 2000
UNBIASED = {
    "standard": partial(standard.standard, bits=6),
    "exponential": exponential.exponential,
    "QSGD max": partial(qsgd.qsgd, bits=4, norm="max"),
    "QSGD l2": partial(qsgd.qsgd, bits=8, norm="l2"),
    "IntSGD": partial(intsgd.intsgd, bits=None),
    "ours independent": partial(ours, scheme=GlobalQSGD(bits=6, rotation=None, dither="independent")),
    "ours correlated": partial(ours, scheme=GlobalQSGD(bits=6, rotation=None, dither="correlated")),
}


def gradients(workers, *shapes):
    workers = np.asarray(workers, dtype=np.float32)
    tensors = tuple(Tensor(f"t{i}", shape) for i, shape in enumerate(shapes or [workers.shape[1:]]))
    return Gradients(workers, tensors, float(np.square(workers.mean(axis=0)).sum()))


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def rng():
    return np.random.default_rng(7)


def largest_z(contender):
    """Max |z| of the mean error of 512 elements, each of which stands 2000 times in one gradient."""
    # 512 is a multiple of every block and bucket, so each repetition is rounded at the same scale.
    g = gradients(np.tile(gaussian(4, TILE), TILES))
    errors = (contender(g, rng()).mean - g.mean).reshape(TILES, TILE)
    # A few roundings are taken for granted, because hardly any happen to elements that lie close to a level.
    variance = errors.var(axis=0) + 8 * np.square(np.ptp(errors, axis=0)) / TILES + 1e-12
    return np.abs(errors.mean(axis=0) / np.sqrt(variance / TILES)).max()


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased(name):
    assert largest_z(UNBIASED[name]) < 5


def test_a_bias_would_be_seen(monkeypatch):
    for module in (standard, qsgd, intsgd):
        monkeypatch.setattr(module, "round_randomly", lambda x, rng: np.floor(x + rng.random(x.shape) + 0.02))
    monkeypatch.setattr(exponential, "HALVES", exponential.HALVES * np.float32(1.02))
    biased = {name: largest_z(contender) for name, contender in UNBIASED.items() if "ours" not in name}
    assert min(biased.values()) > 5, biased
    assert largest_z(partial(ours, scheme=GlobalQSGD(bits=6, rotation=None, dither="nearest"))) > 5


@pytest.mark.parametrize("n", [2, 4, 16, 128])
def test_all_workers_at_plus_or_minus_max_come_back_exactly(n):
    """No sum leaves its lane, and no tree runs out of exponents."""
    x = np.where(np.arange(2048) % 3, 1, -1) * np.float32(np.pi)
    g = gradients([x] * n)
    for name, contender in {
        "standard": partial(standard.standard, bits=10),
        "exponential": exponential.exponential,
        "QSGD max": partial(qsgd.qsgd, bits=8, norm="max"),
        "ours": partial(ours, scheme=GlobalQSGD(bits=10, rotation=None)),
    }.items():
        np.testing.assert_allclose(contender(g, rng()).mean, x, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("n", [3, 4, 8, 127])
def test_standard_dithering_sums_within_its_lane(n):
    estimate = standard.standard(gradients(np.full((n, 4096), 1.0) - np.arange(n)[:, None] / 1e3), rng(), bits=8)
    sums = estimate.mean * (127 // n) * n
    np.testing.assert_allclose(sums, sums.round(), atol=1e-4)
    assert sums.max() <= 127 and len(np.unique(sums.round())) > 1


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("distance", [0, 1, 2, 4])
def test_the_coins_of_the_exponential_tree(distance, same):
    draws, e1 = 200_000, 20
    ones = np.ones(draws, dtype=np.int16)
    codes = [Codes(e1 * ones, -ones), Codes((e1 + distance) * ones, -ones if same else ones)]
    exact = sum(float(code.values()[0]) for code in codes)
    for a, b in (codes, codes[::-1]):
        reduced = exponential.reduce(a, b, rng())
        if not distance and not same:
            assert not reduced.values().any()
            continue
        bumped, probability = (e1 - 1, 2.0**-distance) if same else (e1 + 1, 2.0 ** -(distance - 1))
        assert set(reduced.exponents.tolist()) <= {e1, bumped}
        spread = 5 * np.sqrt(probability * (1 - probability) / draws)
        assert abs(np.mean(reduced.exponents == bumped) - probability) <= spread
        assert (reduced.signs == -1).all()
        assert abs(reduced.values().mean() - exact) <= spread * 2.0**-e1


def test_zero_adds_nothing_to_an_exponential_code():
    zero = Codes(np.full(100, exponential.ZERO, dtype=np.int16), np.ones(100, dtype=np.int16))
    for exponent in (1, 5, 127):
        other = Codes(np.full(100, exponent, dtype=np.int16), np.full(100, -1, dtype=np.int16))
        for a, b in ((zero, other), (other, zero)):
            np.testing.assert_array_equal(exponential.reduce(a, b, rng()).values(), -np.float32(2.0**-exponent))
    assert not exponential.reduce(zero, zero, rng()).values().any()
    assert not exponential.compress(np.zeros(9, dtype=np.float32), rng()).values().any()


def test_exponential_codes_are_the_powers_on_either_side():
    values = exponential.compress(np.full(100_000, -0.3, dtype=np.float32), rng()).values()
    assert set(np.unique(values)) == {-0.25, -0.5}
    assert abs(np.mean(values == -0.5) - 0.2) < 5 * np.sqrt(0.16 / 100_000)


def test_powersgd_is_exact_up_to_its_rank_and_counts_its_factors():
    left, right = gaussian(40, 2), gaussian(2, 3 * 20, seed=1)
    row = np.concatenate([(left @ right).ravel(), np.arange(40)])
    g = gradients([row, 3 * row], (40, 20, 3), (40,))
    assert g.nmse(powersgd.powersgd(g, rng(), rank=1).mean) > 1e-4
    estimate = powersgd.powersgd(g, rng(), rank=2)
    assert g.nmse(estimate.mean) < 1e-12
    assert estimate.bits == 32 * (2 * (40 + 60) + 40) / (40 * 60 + 40)


def test_the_rotation_of_thc_is_orthonormal_and_its_own_inverse():
    x = gaussian(1, 4096)[0].astype(np.float64)
    y = thc.hadamard_transform(x)
    np.testing.assert_allclose(thc.hadamard_transform(y), x, atol=1e-13)
    i = np.arange(1024)
    parity = np.array([[bin(a & b).count("1") % 2 for b in i] for a in (0, 1, 31, 32, 700, 1023)])
    np.testing.assert_allclose(y[:1024][[0, 1, 31, 32, 700, 1023]], (1 - 2.0 * parity) @ x[:1024] / 32, atol=1e-12)
    assert not np.allclose(y, x)


def test_thc_of_one_gradient_has_the_error_that_its_table_gives():
    """papers.md 8: NMSE .0205 of one worker with normal coordinates, of which .0205 / 2 at least remains of two."""
    x = gaussian(1, 1 << 16)
    g = gradients(np.repeat(x, 2, axis=0))
    for ring, bits in ((False, 8), (True, 6)):
        estimate = thc.thc(g, rng(), ring=ring)
        assert 0.0102 < g.nmse(estimate.mean) < 0.0205
        assert estimate.bits == bits
    assert [thc.thc(gradients(gaussian(n, 64)), rng(), ring=True).bits for n in (8, 9)] == [8, 9]


def test_the_cells_of_the_table_of_thc():
    for unit in range(31):
        below, above = thc.LOWER[unit], thc.LOWER[unit] + thc.WIDTH[unit]
        assert {below, above} <= set(thc.TABLE.tolist()) and below <= unit <= above
        assert not set(range(int(below) + 1, int(above))) & set(thc.TABLE.tolist())


def test_intsgd_does_not_depend_on_the_unit_and_clips_to_its_lane():
    x = gaussian(4, 4096)
    errors = [g.nmse(intsgd.intsgd(g, rng(), bits=None).mean) for g in (gradients(x), gradients(1024 * x))]
    assert errors[0] == errors[1] and 0.1 < errors[0] < 0.5
    x[:, 0] = 1e4
    g = gradients(x)
    alpha = np.sqrt(4096 / (2 * 4 * g.previous_square))
    assert intsgd.intsgd(g, rng(), bits=4).mean[0] == pytest.approx(7 // 4 / alpha, rel=1e-6)
    assert intsgd.intsgd(g, rng(), bits=None).mean[0] == pytest.approx(1e4, rel=0.1)


def test_half_precision_is_exact_where_its_sums_are():
    g = gradients(np.arange(4)[:, None] + np.arange(500))
    assert g.nmse(half.half(g, rng()).mean) == 0
    assert g.nmse(half.half(gradients(g.workers / 3), rng()).mean * 3) > 1e-9


def test_bits_are_those_of_a_ring():
    assert base.as_ring(7 * 8, 8) == 32
    assert base.as_ring(8, 2) == 8
    assert qsgd.qsgd(gradients(gaussian(4, 512)), rng(), bits=8, norm="max").bits == 4 / 2 * (8 + 32 / 512)
    estimate = ours(gradients(gaussian(2, 4096 + 10), (4096,), (10,)), rng(), scheme=GlobalQSGD())
    assert estimate.bits == pytest.approx((4096 * (8 + 32 / 256) + 32 * 10 + 4 * 32) / 4106)


def test_half_of_a_synthetic_signal_is_shared():
    workers = synthetic.draw("gaussian", 3, rng())
    np.testing.assert_allclose(np.corrcoef(workers), np.where(np.eye(3), 1, 0.5), atol=0.02)


def test_dithers_tell_biased_from_unbiased():
    g = gradients(gaussian(8, 512))
    largest = {d: np.abs(dithers.z_scores(g, 6, d, steps=200)).max() for d in dithers.DITHERS}
    assert largest["independent"] < 5 and largest["correlated"] < 5 < largest["nearest"]
    assert 3 < dithers.expected_largest(512) < 3.5


@pytest.mark.parametrize(("law", "rotated"), [("gaussian", False), ("gaussian", True), ("student", True)])
def test_error_by_block_size_is_that_of_the_squared_norms(law, rotated):
    """Where a level is small beside most elements, the mean square of what rounding leaves is in units of (M / L)^2."""
    sizes = (64, 256, 1024, 4096)
    (row,) = block_sizes.compare(Source(law), [8], sizes, "hadamard" if rotated else None, seeds=1)
    assert row.relative[256] == 1
    assert row.bits == {b: pytest.approx(8 + 32 / b + 4 * 32 / synthetic.NUMEL) for b in sizes}
    workers, (tensor,) = Source(law).workers(8, np.random.default_rng([0, *map(ord, law)]))
    key = rotation.rotation_key(0, zlib.crc32(tensor.name.encode()))

    def squared_norms(b):
        blocks = [x.reshape(-1, b) for x in workers]
        if rotated:
            blocks = [np.sqrt(b) * rotation.rotate(x, 0, b, key) for x in blocks]
        return np.square(np.abs(blocks).max(axis=(0, 2))).mean()

    for b in sizes:
        assert row.relative[b] == pytest.approx(squared_norms(b) / squared_norms(256), rel=0.05)
    assert list(block_table([row], sizes))[-1].startswith(f"| {law} | 8 | {row.nmse:.2e} | ")


def test_every_line_has_a_colour_and_every_cell_comes_back_from_json():
    assert {entry.line for entry in entries(2)} == set(COLORS)
    cells = [Cell("gpt after 5", n, e.line, e.setting, 8.25, 0.125, 0.5) for n in (2, 128) for e in entries(n)]
    assert from_json(to_json(cells)) == cells
    assert any(line.startswith("| ours | 8 | 1.25e-01 ± 400 % (8.25) |  |") for line in tables(cells))
