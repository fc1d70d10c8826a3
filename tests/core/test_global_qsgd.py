"""Global-QSGD on loopback worlds: the mean is right for every n, and every rank decodes the same bits."""

import numpy as np
import pytest

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.kernels.reference import ReferenceKernels
from hvd_gqsgd.maths import levels
from hvd_gqsgd.schemes import Bucket, GlobalQSGD, World
from hvd_gqsgd.worlds import loopback

WORLDS = [1, 2, 3, 8, 64, 127]
KERNELS = ReferenceKernels()


def buckets_for(scheme, inputs, step=0, check=7):
    """One bucket per rank; inputs[rank] is a list of float32 tensors, None for a rank that has joined."""
    numels = [t.size for t in next(i for i in inputs if i is not None)]
    members = tuple(Member(tensor_id=100 + i, numel=numel, dtype="float32") for i, numel in enumerate(numels))
    layout = Layout(members=members, **scheme.layout_settings())
    return [
        Bucket(
            layout=layout,
            names=tuple(f"t{i}" for i in range(len(numels))),
            check=check,
            norms=np.full(layout.norms_numel, -1, dtype=np.float32),
            words=np.full(layout.words_numel, -1, dtype=np.int32),
            tensors=tensors,
            step=step,
        )
        for tensors in inputs
    ]


def allreduce(scheme, inputs, scale=1.0, step=0):
    """Decoded tensors per rank that is present; scale=1 is the mean over those."""
    n = len(inputs)
    buckets = buckets_for(scheme, inputs, step)
    present = [rank for rank in range(n) if inputs[rank] is not None]
    loopback.run([scheme.exchange(buckets[r], KERNELS, World(n, r)) if r in present else None for r in range(n)])
    results = []
    for rank in present:
        outs = [np.empty_like(t) for t in inputs[rank]]
        scheme.decode(buckets[rank], KERNELS, World(n, rank), outs, scale=scale)
        results.append(outs)
    return results


def gaussian(n, numels=(1000, 7, 256), seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(m).astype(np.float32) for m in numels] for _ in range(n)]


@pytest.mark.parametrize("n", WORLDS)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_mean_is_within_one_level_and_every_rank_has_the_same(n, bits):
    inputs = gaussian(n)
    results = allreduce(GlobalQSGD(bits=bits), inputs)
    count = levels.count_levels(bits, n)
    for index in range(3):
        mean = np.mean([i[index].astype(np.float64) for i in inputs], axis=0)
        norm = np.max([np.abs(i[index]).max() for i in inputs])
        assert np.abs(results[0][index] - mean).max() <= norm / count
        for other in results[1:]:
            np.testing.assert_array_equal(other[index], results[0][index])


@pytest.mark.parametrize("n", WORLDS)
def test_all_ranks_at_plus_or_minus_max_come_back_exactly(n):
    x = np.float32(np.pi) * np.where(np.arange(1000) % 3, 1, -1).astype(np.float32)
    for bits in range(levels.smallest_bits(n), 17):
        for (out,) in allreduce(GlobalQSGD(bits=bits), [[x]] * n):
            np.testing.assert_array_equal(out, x)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_the_mean_is_unbiased_and_its_variance_within_the_bound(n):
    scheme, steps = GlobalQSGD(bits=5, block_size=64), 2000
    inputs = gaussian(n, (128,), seed=n)
    mean = np.mean([i[0].astype(np.float64) for i in inputs], axis=0)
    errors = np.array([allreduce(scheme, inputs, step=s)[0][0] - mean for s in range(steps)])
    norm = np.max([np.abs(i[0]).reshape(2, 64).max(axis=1) for i in inputs], axis=0).repeat(64)
    bound = (norm / levels.count_levels(scheme.bits, n)) ** 2 / (4 * n)
    assert np.all(np.abs(errors.mean(axis=0)) < 5 * np.sqrt(bound / steps) + 1e-6)
    # A sample variance scatters around the true one by about sqrt(2 / steps).
    assert np.all(errors.var(axis=0) <= bound * (1 + 5 * np.sqrt(2 / steps)))


def test_two_ranks_with_equal_gradients_round_independently():
    x = np.full((4096,), 0.3, dtype=np.float32)
    x[::64] = 1.0
    scheme = GlobalQSGD(bits=4)
    buckets = buckets_for(scheme, [[x], [x]])
    for rank, bucket in enumerate(buckets):
        exchange = scheme.exchange(bucket, KERNELS, World(2, rank))
        next(exchange)
        next(exchange)
    assert np.mean(buckets[0].words != buckets[1].words) > 0.3


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.25])
def test_scale_is_what_the_probe_says(scale):
    x = np.full(300, 2.0, dtype=np.float32)
    for (out,) in allreduce(GlobalQSGD(), [[x]] * 3, scale=scale):
        np.testing.assert_allclose(out, 2.0 * scale, rtol=1e-7)


def test_ranks_that_joined_count_as_absent():
    inputs = [[np.full(300, 2.0, dtype=np.float32)], None, [np.full(300, 2.0, dtype=np.float32)]]
    for (out,) in allreduce(GlobalQSGD(), inputs):
        np.testing.assert_array_equal(out, 2.0)


def test_a_nan_on_one_rank_is_nan_on_all_in_that_block_alone():
    inputs = gaussian(3, (1000, 500))
    inputs[1][0][300] = np.nan
    results = allreduce(GlobalQSGD(), inputs)
    for outs in results:
        assert np.isnan(outs[0][256:512]).all()
        assert np.isfinite(outs[0][:256]).all()
        assert np.isfinite(outs[0][512:]).all()
        assert np.isfinite(outs[1]).all()


def test_inputs_are_left_alone():
    inputs = gaussian(2)
    copies = [[t.copy() for t in i] for i in inputs]
    allreduce(GlobalQSGD(), inputs)
    for i, c in zip(inputs, copies, strict=True):
        for a, b in zip(i, c, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("absent", [None, 0, 2])
@pytest.mark.parametrize("fault", ["another check", "one invalid", "all invalid"])
def test_ranks_that_mean_different_exchanges_get_an_error_on_every_rank(absent, fault):
    scheme, n = GlobalQSGD(), 3
    inputs = [None if rank == absent else tensors for rank, tensors in enumerate(gaussian(n))]
    buckets = buckets_for(scheme, inputs)
    buckets[1].check += fault == "another check"
    invalid = {"one invalid": {1}, "all invalid": {0, 1, 2}}.get(fault, set())
    exchanges = {
        rank: scheme.exchange(buckets[rank], KERNELS, World(n, rank), valid=rank not in invalid)
        for rank in range(n)
        if rank != absent
    }
    highest = np.maximum.reduce([next(exchange).buffer for exchange in exchanges.values()])
    for rank, exchange in exchanges.items():
        buckets[rank].norms[...] = np.maximum(highest, 0)
        with pytest.raises(DisagreementError, match="'t0'.*differ"):
            next(exchange)


def test_a_world_too_large_names_the_bits_that_work():
    with pytest.raises(SettingsError, match=r"bits=4.*8 ranks.*write bits=5"):
        GlobalQSGD(bits=4).check_world(8)
