"""Global-QSGD on loopback worlds: the mean is right for every n, and every rank decodes the same bits."""

import itertools

import numpy as np
import pytest

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.maths import lanes, levels
from hvd_gqsgd.schemes import GlobalQSGD, Rule, World
from tests.core.loopback_cases import KERNELS, allreduce, buckets_for, gaussian, run

WORLDS = [1, 2, 3, 8, 64, 127]
FORMS = [
    {"rotation": rotation, "dither": dither}
    for rotation, dither in itertools.product(("hadamard", None), ("correlated", "independent", "nearest"))
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", WORLDS)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_mean_is_within_one_level_and_every_rank_has_the_same(n, bits, form):
    scheme, inputs = GlobalQSGD(bits=bits, **form), gaussian(n)
    buckets = buckets_for(scheme, inputs)
    results = run(scheme, buckets, inputs)
    for index in range(3):
        mean = np.mean([i[index].astype(np.float64) for i in inputs], axis=0)
        norms = buckets[0].norms[buckets[0].layout.norms_of(index)] / levels.count_levels(bits, n)
        error = results[0][index] - mean
        for block, level in enumerate(norms):
            own = error[256 * block : 256 * (block + 1)]
            if scheme.rotation is None:
                assert np.abs(own).max() <= level * (1 + 1e-6)
            else:
                # maths.rotation: lengths are multiplied by 1 / sqrt(d), in a block that is no power of two by 1 / d.
                d = 1 << (own.size.bit_length() - 1)
                back = np.sqrt(d) if d == own.size else d
                assert np.linalg.norm(own) <= back * np.sqrt(own.size) * level + 1e-6 * np.linalg.norm(mean)
        for other in results[1:]:
            np.testing.assert_array_equal(other[index], results[0][index])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", WORLDS)
def test_all_ranks_at_plus_or_minus_max_do_not_overflow(n, form):
    x = np.float32(np.pi) * np.where(np.arange(1024) % 3, 1, -1).astype(np.float32)
    for bits in range(levels.smallest_bits(n), 17):
        for (out,) in allreduce(GlobalQSGD(bits=bits, **form), [[x]] * n):
            if form["rotation"] is None:
                np.testing.assert_array_equal(out, x)
            else:
                # A sum that left its lane would come back with the other sign and twice the size.
                count = levels.count_levels(bits, n)
                assert np.linalg.norm(out - x) <= 1.5 * np.linalg.norm(x) * (1 if count < 4 else 4 / count)


@pytest.mark.parametrize("form", [form for form in FORMS if form["dither"] != "nearest"])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_the_mean_is_unbiased_and_its_variance_within_the_bound(n, form):
    scheme, steps = GlobalQSGD(bits=5, block_size=64, **form), 2000
    inputs = gaussian(n, (128,), seed=n)
    mean = np.mean([i[0].astype(np.float64) for i in inputs], axis=0)
    buckets = buckets_for(scheme, inputs)
    errors = []
    for bucket_step in range(steps):
        for bucket in buckets:
            bucket.step = bucket_step
        errors.append(run(scheme, buckets, inputs)[0][0] - mean)
    norm = buckets[0].norms[buckets[0].layout.norms_of(0)].repeat(64)
    bound = (norm / levels.count_levels(5, n)) ** 2 / (4 * n) * (64 if scheme.rotation else 1)
    assert np.all(np.abs(np.mean(errors, axis=0)) < 5 * np.sqrt(bound / steps) + 1e-6)
    # A sample variance scatters around the true one by about sqrt(2 / steps).
    assert np.all(np.var(errors, axis=0) <= bound * (1 + 5 * np.sqrt(2 / steps)))


def test_two_ranks_with_equal_gradients_round_independently_if_they_are_told_to():
    x = np.full((4096,), 0.3, dtype=np.float32)
    x[::64] = 1.0
    scheme = GlobalQSGD(bits=4, rotation=None, dither="independent")
    buckets = buckets_for(scheme, [[x], [x]])
    for rank, bucket in enumerate(buckets):
        exchange = scheme.collectives(bucket, KERNELS, World(2, rank))
        next(exchange)
        next(exchange)
    up = [lanes_up(bucket) for bucket in buckets]
    # Of what each rounds up with probability 0.9, both do so in 0.81.
    assert 0.76 < np.mean(up[0] & up[1]) < 0.86


def lanes_up(bucket):
    codes = lanes.unpack(bucket.words[1:].reshape(-1, 32), 256, 4).reshape(-1)
    return codes[np.arange(codes.size) % 64 != 0] == 1


def test_ranks_take_the_step_of_whoever_has_made_most():
    inputs = gaussian(3)
    expected = allreduce(GlobalQSGD(bits=5), inputs, step=9)
    scheme = GlobalQSGD(bits=5)
    buckets = buckets_for(scheme, inputs, step=4)
    buckets[1].step = 9
    for got, wanted in zip(run(scheme, buckets, inputs), expected, strict=True):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_lanes_of_several_widths_in_one_bucket():
    scheme = GlobalQSGD(bits=(Rule(name="t0", bits=4), Rule(name="t1", bits=16), 8))
    inputs = gaussian(2, (4096, 4096, 4096))
    results = allreduce(scheme, inputs)
    errors = [np.linalg.norm(results[0][i] - np.mean([x[i] for x in inputs], axis=0)) for i in range(3)]
    assert errors[0] > 10 * errors[2] > 100 * errors[1]


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.25])
def test_scale_is_what_the_probe_says(scale):
    x = np.full(300, 2.0, dtype=np.float32)
    for (out,) in allreduce(GlobalQSGD(rotation=None), [[x]] * 3, scale=scale):
        np.testing.assert_allclose(out, 2.0 * scale, rtol=1e-7)


def test_ranks_that_joined_count_as_absent():
    inputs = [[np.full(300, 2.0, dtype=np.float32)], None, [np.full(300, 2.0, dtype=np.float32)]]
    for (out,) in allreduce(GlobalQSGD(rotation=None), inputs):
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
        rank: scheme.collectives(buckets[rank], KERNELS, World(n, rank), valid=rank not in invalid)
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
