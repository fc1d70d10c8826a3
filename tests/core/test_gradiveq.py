"""GradiVeQ on loopback worlds: what it sends when, and that the mean comes back on every rank."""

import math

import numpy as np
import pytest

from hvd_gqsgd.errors import DisagreementError
from hvd_gqsgd.schemes import GlobalQSGD, World
from tests.core.gradiveq_cases import CONV, FINE, KERNELS, MATRIX, Gradients, Ranks, error_of, mean_of, quick
from tests.core.loopback_cases import allreduce

WARMING, SAMPLING, USING = range(3)
TWO_PHASE = GlobalQSGD(bits=8, exchange="two_phase")


def run_to_use(scheme, n=2, **kinds):
    """Ranks that have just begun to use a basis, and their gradients."""
    ranks, gradients = Ranks(scheme, n), Gradients(n, **kinds)
    for _ in range(6):
        ranks.allreduce(gradients.draw())
    assert ranks.phases() == [[USING, 0]] * n
    return ranks, gradients


def test_phases_follow_one_another():
    ranks, gradients = Ranks(quick()), Gradients()
    seen = []
    for _ in range(18):
        ranks.allreduce(gradients.draw())
        seen.append(ranks.phases()[0])
    warming = [[WARMING, 0]] * 2
    sampling = [[SAMPLING, k] for k in (1, 2, 3)] + [[USING, 0]]
    using = [[USING, k] for k in (1, 2, 3, 4, 5)] + [[SAMPLING, 0]]
    assert seen == warming + sampling + using + sampling + using[:2]


def test_a_run_without_memory_past_its_warm_up_samples_at_once():
    ranks = Ranks(quick(warm_up_steps=100))
    ranks.step = 100
    ranks.allreduce(Gradients().draw())
    assert ranks.phases() == [[SAMPLING, 1]] * 2


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_a_mean_inside_the_subspace_is_exact(n):
    ranks, gradients = run_to_use(quick(then=None), n)
    for _ in range(6):
        inputs = gradients.draw()
        # Means were sampled in lanes of 16 bits, which is how near the basis comes.
        assert error_of(ranks.allreduce(inputs), inputs) < 2e-4 * n


@pytest.mark.parametrize("then", [GlobalQSGD(bits=8), GlobalQSGD(bits=12), TWO_PHASE], ids=["8", "12", "two_phase"])
@pytest.mark.parametrize("n", [2, 3])
def test_quantised_coefficients_are_as_near_as_their_scheme(n, then):
    ranks, gradients = run_to_use(quick(then=then), n)
    errors = [error_of(ranks.allreduce(inputs), inputs) for inputs in (gradients.draw() for _ in range(5))]
    plain = GlobalQSGD(bits=then.bits, exchange=then.exchange)
    random = np.random.default_rng(0).standard_normal((n, 1, 4096)).astype(np.float32)
    expected = np.linalg.norm(allreduce(plain, [list(r) for r in random])[0][0] - random.mean(axis=0)[0])
    assert np.mean(errors) < 1.5 * expected / np.linalg.norm(random.mean(axis=0)) + 1e-3


def test_the_compressed_mean_is_the_mean_of_the_compressed():
    together, gradients = run_to_use(quick(then=None, refresh=None), 3, noise=0.5)
    alone = Ranks(together.scheme, 1)
    inputs = gradients.draw()
    parts = []
    for tensors in inputs:
        alone.memories[0][0].update({name: array.copy() for name, array in together.memories[0][0].items()})
        parts.append(alone.allreduce([tensors]))
    result = together.allreduce(inputs)
    np.testing.assert_allclose(result[0], mean_of(parts), atol=1e-5)
    assert error_of(result, inputs) > 0.01


def test_what_is_no_kernel_gets_the_bits_of_its_scheme():
    ranks, gradients = Ranks(quick(then=GlobalQSGD(bits=5), sampling=GlobalQSGD(bits=6))), Gradients()
    plain = Ranks(GlobalQSGD(bits=5))
    for _ in range(8):
        inputs = gradients.draw()
        result, expected = ranks.allreduce(inputs), plain.allreduce(inputs)
        np.testing.assert_array_equal(result[1], expected[1])
        if ranks.phases()[0][0] == WARMING:
            np.testing.assert_array_equal(result[0], expected[0])
    assert ranks.memories[0][1] == {}


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.25])
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_scale_is_what_the_probe_says(scale, steps):
    ranks, other, gradients = Ranks(quick()), Ranks(quick()), Gradients()
    for _ in range(steps):
        inputs = gradients.draw()
        result, scaled = ranks.allreduce(inputs), other.allreduce(inputs, scale=scale)
    for one, many in zip(result, scaled, strict=True):
        np.testing.assert_allclose(many, scale * one, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_dtypes(dtype):
    ranks, gradients = Ranks(quick(), dtype=dtype), Gradients()
    for _ in range(8):
        inputs = gradients.draw()
        if dtype == "bfloat16":
            stored = [[(t.view(np.uint32) >> 16).astype(np.uint16) for t in tensors] for tensors in inputs]
            result = [(r.astype(np.uint32) << 16).view(np.float32) for r in ranks.allreduce(stored)]
        else:
            result = ranks.allreduce([[t.astype(dtype) for t in tensors] for tensors in inputs])
        assert error_of(result, inputs) < 0.02
    assert ranks.phases()[0][0] == USING


def test_a_step_sends_what_the_ratio_says():
    shapes = {"conv": CONV}
    ranks, gradients = Ranks(quick(then=GlobalQSGD(bits=8)), shapes=shapes), Gradients(shapes=shapes, noise=1.0)
    numel = math.prod(CONV)
    sent = []
    for _ in range(8):
        ranks.allreduce(gradients.draw())
        sent.append(ranks.sent_bytes)
    headers, blocks = 4 * (3 + 1 + 6) + 4 * 3 + 4, numel // 256
    assert sent[0] == numel + 4 * blocks + headers
    assert sent[3] == 2 * numel + 4 * blocks + headers
    # 36 slices of 16 coefficients.
    assert ranks.memories[0][0]["basis"].shape == (128, 16)
    assert sent[7] == numel // 8 + 4 * 3 + headers
    full = Ranks(quick(then=None), shapes=shapes)
    for _ in range(7):
        full.allreduce(gradients.draw())
    assert full.sent_bytes == 4 * numel // 8 + 4 * (3 + 1 + 6) + 4


@pytest.mark.parametrize(("value", "centre"), [(1, True), (0, False)])
def test_a_kernel_without_anything_to_keep_is_sent_by_the_scheme(value, centre):
    ranks = Ranks(quick(sampling=GlobalQSGD(bits=8, rotation=None, dither="nearest"), centre=centre))
    inputs = [[np.full(math.prod(shape), value, np.float32) for shape in (CONV, MATRIX)]] * 2
    for _ in range(8):
        np.testing.assert_allclose(ranks.allreduce(inputs)[0], value, rtol=1e-2)
    assert ranks.memories[0][0]["basis"].shape == (128, 0)
    assert ranks.phases() == [[USING, 2]] * 2


def test_centred_bases_need_no_column_for_the_mean():
    for centre, columns in ((True, 5), (False, 6)):
        ranks, gradients = run_to_use(quick(centre=centre, then=None, loss=1e-5))
        assert ranks.memories[0][0]["basis"].shape == (128, columns)
        assert ranks.memories[0][0]["mean"].any() == centre
        inputs = gradients.draw()
        assert error_of(ranks.allreduce(inputs), inputs) < 1e-3


@pytest.mark.parametrize("then", [None, FINE])
@pytest.mark.parametrize("steps", [4, 8])
def test_a_nan_on_one_rank_is_nan_on_all_and_leaves_the_memory_alone(steps, then):
    ranks, gradients = Ranks(quick(then=then), 3), Gradients(3)
    for _ in range(steps):
        ranks.allreduce(gradients.draw())
    phase, count = ranks.phases()[0]
    kept = {name: array.copy() for name, array in ranks.memories[0][0].items() if name != "state"}
    inputs = gradients.draw()
    inputs[1][0][300] = np.inf
    result = ranks.allreduce(inputs)
    if phase == USING:
        assert np.isnan(result[0]).all()
    else:
        assert np.isnan(result[0]).any()
    assert np.isfinite(result[1]).all()
    for name, array in kept.items():
        np.testing.assert_array_equal(ranks.memories[2][0][name], array)
    # A step that can't be sampled does not count; one that can't be used does.
    assert ranks.phases() == [[phase, count + (phase == USING)]] * 3
    inputs = gradients.draw()
    assert error_of(ranks.allreduce(inputs), inputs) < 1e-2


@pytest.mark.parametrize("then", [None, FINE])
@pytest.mark.parametrize("absent", [0, 1])
def test_ranks_that_joined_count_as_absent(absent, then):
    ranks, gradients = Ranks(quick(then=then), 3), Gradients(3)
    for _ in range(9):
        inputs = gradients.draw()
        inputs[absent] = None
        assert error_of(ranks.allreduce(inputs), inputs) < 1e-2
    assert ranks.phases()[2] == [USING, 3]


def test_memory_is_all_that_a_run_needs_to_go_on():
    scheme = quick(then=GlobalQSGD(bits=8))
    for stop in (1, 4, 6, 9):
        ranks, gradients = Ranks(scheme), Gradients(noise=0.3, seed=stop)
        for _ in range(stop):
            ranks.allreduce(gradients.draw())
        resumed = Ranks(scheme)
        resumed.step = ranks.step
        resumed.memories = [[{k: v.copy() for k, v in m.items()} for m in memory] for memory in ranks.memories]
        resumed.make_buckets()
        for _ in range(8):
            inputs = gradients.draw()
            for one, other in zip(ranks.allreduce(inputs), resumed.allreduce(inputs), strict=True):
                np.testing.assert_array_equal(one, other)


def test_inputs_are_left_alone():
    ranks, gradients = Ranks(quick()), Gradients()
    for _ in range(8):
        inputs = gradients.draw()
        copies = [[t.copy() for t in tensors] for tensors in inputs]
        ranks.allreduce(inputs)
        for tensors, copied in zip(inputs, copies, strict=True):
            for a, b in zip(tensors, copied, strict=True):
                np.testing.assert_array_equal(a, b)


def test_measured_is_that_of_the_schemes_and_nan_where_a_basis_hides_the_error():
    ranks, gradients = Ranks(quick(then=GlobalQSGD(bits=8))), Gradients()
    inputs = gradients.draw()
    result = ranks.allreduce(inputs)
    measured = ranks.scheme.measure(ranks.buckets[0], World(2, 0))
    squares = sum(np.sum((result[i] - mean_of(inputs, i)) ** 2) for i in range(2))
    assert measured.squared_error == pytest.approx(squares, rel=0.3)
    for _ in range(7):
        ranks.allreduce(gradients.draw())
    measured = ranks.scheme.measure(ranks.buckets[0], World(2, 0))
    assert math.isnan(measured.squared_error)
    assert measured.nonfinite_blocks == 0 < measured.blocks


@pytest.mark.parametrize("fault", ["another check", "one invalid"])
def test_ranks_that_mean_different_exchanges_get_an_error_on_every_rank(fault):
    ranks, gradients = run_to_use(quick(), 3)
    ranks.buckets[1].check += fault == "another check"
    exchanges = []
    for rank, tensors in enumerate(gradients.draw()):
        valid = fault == "another check" or rank != 1
        # A rank whose tensors are wrong may have wrong shapes.
        ranks.buckets[rank].tensors = tensors if valid else [t[:5] for t in tensors]
        exchanges.append(ranks.scheme.collectives(ranks.buckets[rank], KERNELS, World(3, rank), valid=valid))
    headers = [next(exchange).buffer for exchange in exchanges]
    highest = np.maximum.reduce(headers)
    for header, exchange in zip(headers, exchanges, strict=True):
        header[...] = highest
        with pytest.raises(DisagreementError, match="'conv'.*differ"):
            next(exchange)
