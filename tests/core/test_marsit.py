"""Marsit on loopback worlds: the law of a step, what compensation keeps, and that no rank goes its own way."""

from dataclasses import replace

import numpy as np
import pytest

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.maths import floats
from hvd_gqsgd.schemes import Marsit, World
from hvd_gqsgd.schemes.marsit import RELATIVE_STEP
from hvd_gqsgd.telemetry import StepReport
from hvd_gqsgd.worlds import loopback
from tests.core import kernel_cases
from tests.core.loopback_cases import KERNELS, allreduce, at, buckets_for, gaussian, run

WORLDS = (1, 2, 3, 8)


def kept(buckets, member=0):
    return [bucket.memory[member]["compensation"] for bucket in buckets]


@pytest.mark.parametrize("n", WORLDS)
def test_a_full_step_is_the_mean_and_starts_compensation_again(n):
    scheme, inputs = Marsit(sync_every=2), gaussian(n, (1000, 7))
    buckets = buckets_for(scheme, inputs)
    for step in range(3):
        before = [
            [memory.get("compensation", 0) + x for memory, x in zip(b.memory, i, strict=True)]
            for b, i in zip(buckets, inputs, strict=True)
        ]
        results = run(scheme, at(buckets, step), inputs)
        for member in range(2):
            for outs in results:
                np.testing.assert_array_equal(outs[member], results[0][member])
            if step % 2 == 0:
                mean = np.mean([rank[member] for rank in before], axis=0, dtype=np.float64)
                np.testing.assert_allclose(results[0][member], mean, atol=1e-6)
                assert not any(np.any(b.memory[member].get("compensation", 0)) for b in buckets)
    assert scheme.measure(buckets[0], World(n, 0)).squared_error == 0


@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_a_step_is_up_as_often_as_ranks_have_a_positive_sign(n):
    scheme, numel, size = Marsit(sync_every=None, lr=0.25), 40_001, 0.25
    for ones in sorted({0, 1, n // 2, n}):
        inputs = [[np.full(numel, 3.0 if rank < ones else -2.0, dtype=np.float32)] for rank in range(n)]
        (out,) = allreduce(scheme, inputs, step=1)[0]
        assert set(np.unique(out)) <= {-size, size}
        p = ones / n
        assert abs((out > 0).mean() - p) <= 5 * np.sqrt(p * (1 - p) / numel)


@pytest.mark.parametrize("n", WORLDS)
@pytest.mark.parametrize("lr", [None, 0.3])
def test_results_and_mean_compensation_add_up_to_the_mean_gradients(n, lr):
    scheme = Marsit(sync_every=None, lr=lr)
    buckets = buckets_for(scheme, gaussian(n, (1000, 33)))
    wanted, done = [np.zeros(1000), np.zeros(33)], [np.zeros(1000), np.zeros(33)]
    for step in range(12):
        inputs = gaussian(n, (1000, 33), seed=step)
        for bucket, tensors in zip(at(buckets, step), inputs, strict=True):
            bucket.tensors = tensors
        results = run(scheme, buckets, inputs)
        for member in range(2):
            wanted[member] += np.mean([i[member] for i in inputs], axis=0, dtype=np.float64)
            done[member] += results[0][member]
    for member in range(2):
        mean = np.mean(kept(buckets, member), axis=0, dtype=np.float64)
        np.testing.assert_allclose(done[member] + mean, wanted[member], atol=1e-5)
        assert np.abs(mean).max() > 0.1


def test_the_schedule():
    def full_steps(sync_every):
        scheme = Marsit(sync_every=sync_every)
        inputs = gaussian(2, (1000,))
        buckets = buckets_for(scheme, inputs)
        full = []
        for step in range(9):
            (out,) = run(scheme, at(buckets, step), inputs)[0]
            if np.unique(np.abs(out)).size > 1:
                full.append(step)
        return full

    assert full_steps(None) == [0]
    assert full_steps(1) == list(range(9))
    assert full_steps(3) == [0, 3, 6]
    assert full_steps(100) == [0]


@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e25])
def test_the_size_of_a_step_follows_the_largest_gradient(unit):
    scheme, inputs = Marsit(), [[t * np.float32(unit) for t in tensors] for tensors in gaussian(3, (1000, 9000))]
    inputs[1][1] *= 5
    outs = allreduce(scheme, inputs, scale=3.0, step=1)[0]
    for member in range(2):
        sizes = [np.sqrt(np.mean(np.square(i[member], dtype=np.float64))) for i in inputs]
        np.testing.assert_allclose(np.abs(outs[member]), 3 * RELATIVE_STEP * max(sizes), rtol=1e-5)


def test_gradients_of_zeros_move_nothing_and_forget_nothing():
    scheme, inputs = Marsit(), gaussian(2, (1000,))
    buckets = buckets_for(scheme, inputs, step=1)
    run(scheme, buckets, inputs)
    before = [c.copy() for c in kept(buckets)]
    for bucket in buckets:
        bucket.tensors = [np.zeros(1000, dtype=np.float32)]
    (out,) = run(scheme, at(buckets, 2), inputs)[0]
    np.testing.assert_array_equal(out, 0)
    np.testing.assert_array_equal(kept(buckets), before)


def test_runs_are_replayed_and_differ_by_seed_step_and_tensor():
    inputs = [[x.copy(), x.copy()] for x in (gaussian(3, (2000,), seed)[0][0] for seed in range(3))]

    def signs(step=1, **settings):
        return [out > 0 for out in allreduce(Marsit(lr=1.0, **settings), inputs, step=step)[0]]

    again, once = signs(), signs()
    np.testing.assert_array_equal(once, again)
    for other in (signs(step=2), signs(seed=1), once[::-1]):
        assert 0.05 < np.mean(other[0] != once[0]) < 0.95


def test_how_tensors_share_buckets_changes_nothing():
    scheme, inputs = Marsit(lr=1.0), gaussian(3, (1000, 700, 2000))
    together = allreduce(scheme, inputs, step=1)[0]
    for member in range(3):
        own = [[tensors[member]] for tensors in inputs]
        buckets = buckets_for(scheme, own, step=1)
        for bucket in buckets:
            bucket.layout = replace(bucket.layout, members=(replace(bucket.layout.members[0], tensor_id=100 + member),))
        np.testing.assert_array_equal(run(scheme, buckets, own)[0][0], together[member])


@pytest.mark.parametrize("dtype", floats.DTYPES)
@pytest.mark.parametrize("name", ["reference", "avx512", "avx2", "baseline"])
def test_every_dtype_in_place_on_every_implementation(name, dtype):
    kernels, scheme, n = kernel_cases.make(name), Marsit(sync_every=None), 3
    numels = (1, 31, 1025, 5000)
    members = tuple(Member(tensor_id=i, numel=m, dtype=dtype, bits=1) for i, m in enumerate(numels))
    buckets = buckets_for(scheme, gaussian(n, numels))
    for bucket in buckets:
        bucket.layout = Layout(members=members, **scheme.layout_settings())
    for step in range(3):
        inputs = [[kernel_cases.to_dtype(t, dtype) for t in tensors] for tensors in gaussian(n, numels, seed=step)]
        for bucket, tensors in zip(at(buckets, step), inputs, strict=True):
            bucket.tensors = [t.copy() for t in tensors]
        run(scheme, buckets, inputs, kernels=kernels)
        for rank, bucket in enumerate(buckets):
            scheme.decode(bucket, kernels, World(n, rank), bucket.tensors, scale=1.0)
            for member, out in enumerate(bucket.tensors):
                np.testing.assert_array_equal(out, buckets[0].tensors[member])
                values = floats.to_float32(out)
                if step:
                    assert np.unique(np.abs(values)).size == 1
                else:
                    mean = np.mean([floats.to_float32(i[member]) for i in inputs], axis=0)
                    np.testing.assert_allclose(values, mean, rtol=2**-8, atol=1e-6)


def test_compiled_and_specified_runs_have_the_same_bits():
    def history(name):
        scheme, inputs = Marsit(sync_every=3), gaussian(3, (1000, 7, 5000))
        buckets = buckets_for(scheme, inputs)
        outs = [run(scheme, at(buckets, step), inputs, kernels=kernel_cases.make(name))[2] for step in range(5)]
        return [*(x for out in outs for x in out), *kept(buckets, 0), *kept(buckets, 2)]

    for name in kernel_cases.compiled.runnable():
        for expected, got in zip(history("reference"), history(name), strict=True):
            kernel_cases.assert_same_bits(got, expected, name)


def test_an_empty_bucket_and_more_ranks_than_words():
    assert allreduce(Marsit(), [[], []], step=1) == [[], []]
    x = np.ones(3, dtype=np.float32)
    for outs in allreduce(Marsit(lr=0.5), [[x]] * 7, step=1):
        np.testing.assert_array_equal(outs[0], 0.5)


def test_bytes_of_a_step():
    scheme, n = Marsit(), 4
    inputs = gaussian(n, (100_000,))
    buckets = buckets_for(scheme, inputs)

    def sent(step):
        at(buckets, step)
        return loopback.run([scheme.collectives(b, KERNELS, World(n, r)) for r, b in enumerate(buckets)])

    header = 4 * (3 + 1 + 1 + n)
    assert sent(0) == 4 * 100_001 + header
    assert sent(1) == pytest.approx(100_000 / 8 + header, abs=8)


def test_the_error_of_a_one_bit_step_is_not_known():
    scheme, inputs = Marsit(lr=0.5), gaussian(2, (1000, 500))
    buckets = buckets_for(scheme, inputs, step=1)
    run(scheme, buckets, inputs)
    measured = scheme.measure(buckets[0], World(2, 0))
    assert measured.squared_mean == 1500 * 0.25
    assert (measured.blocks, measured.nonfinite_blocks) == (2, 0)
    counts = {"operation": "x", "step": 1, "sent_bytes": 1, "dense_bytes": 1}
    assert np.isnan(StepReport.of(measured, **counts).relative_error)


def test_settings():
    scheme = Marsit(sync_every=10, lr=np.float32(0.5))
    assert eval(repr(scheme)) == scheme
    assert scheme.on_host and not scheme.keeps_residuals and not scheme.cuts_tensors
    assert (scheme.bits_of("w", (1024,)), scheme.bits_of("b", (1023,))) == (1, None)
    assert [scheme.misfit(n) for n in (1, 1000)] == ["", ""]
    for bad, said in (
        ({"lr": 0}, r"lr=0\): expected a positive float, .*; got 0; write for instance lr=0.001"),
        ({"lr": float("nan")}, "got nan"),
        ({"lr": 1e-60}, "got 1e-60"),
        ({"lr": "auto"}, "got 'auto'"),
        ({"sync_every": 0}, r"sync_every=0\): expected an integer from 1"),
        ({"seed": -1}, r"seed=-1\): expected an integer from 0"),
    ):
        with pytest.raises(SettingsError, match=said):
            Marsit(**bad)
