"""Marsit where ranks differ: in settings, in what they remember, in what is finite, in whether they are there."""

import numpy as np
import pytest

from hvd_gqsgd.errors import DisagreementError
from hvd_gqsgd.schemes import Marsit, World
from tests.core import kernel_cases
from tests.core.loopback_cases import KERNELS, allreduce, at, buckets_for, gaussian, run


def test_a_rank_that_lost_its_memory_goes_on_with_the_others():
    scheme, inputs = Marsit(), gaussian(3, (1000, 2000))
    buckets = buckets_for(scheme, inputs)
    for step in range(3):
        run(scheme, at(buckets, step), inputs)
    for memory in buckets[1].memory:
        memory.clear()
    results = run(scheme, at(buckets, 3), inputs)
    for outs in results:
        for member in range(2):
            np.testing.assert_array_equal(outs[member], results[0][member])
    assert buckets[1].memory[0]["compensation"].shape == (1000,)


def test_ranks_take_the_step_of_whoever_has_made_most():
    scheme, inputs = Marsit(sync_every=4, lr=1.0), gaussian(3, (1000,))
    buckets = buckets_for(scheme, inputs, step=3)
    buckets[1].step = 4
    np.testing.assert_allclose(run(scheme, buckets, inputs)[0][0], np.mean([i[0] for i in inputs], axis=0), atol=1e-6)


def test_a_rank_that_joined_counts_as_absent_in_a_full_step():
    inputs = [[np.full(300, 2.0, dtype=np.float32)], None, [np.full(300, 4.0, dtype=np.float32)]]
    for (out,) in allreduce(Marsit(), inputs, scale=2.0):
        np.testing.assert_array_equal(out, 6.0)


@pytest.mark.parametrize("fault", ["another check", "one invalid", "all invalid"])
def test_ranks_that_mean_different_exchanges_get_an_error_on_every_rank(fault):
    n, inputs = 3, gaussian(3, (1000,))
    buckets = buckets_for(Marsit(), inputs)
    buckets[1].check += fault == "another check"
    invalid = {"one invalid": {1}, "all invalid": {0, 1, 2}}.get(fault, set())
    for rank, error in fail(Marsit(), buckets, n, invalid).items():
        assert "'t0'" in error and "differ" in error, rank


def fail(scheme, buckets, n, invalid=frozenset()):
    """What every rank says when it has seen the headers of all."""
    exchanges = [scheme.collectives(b, KERNELS, World(n, r), valid=r not in invalid) for r, b in enumerate(buckets)]
    asked = [next(exchange).buffer for exchange in exchanges]
    highest, said = np.maximum.reduce(asked), {}
    for rank, exchange in enumerate(exchanges):
        asked[rank][...] = highest
        with pytest.raises(DisagreementError) as error:
            next(exchange)
        said[rank] = str(error.value)
    return said


def test_memory_of_another_model_is_an_error_on_every_rank():
    inputs = gaussian(2, (1000,))
    buckets = buckets_for(Marsit(), inputs)
    buckets[1].memory[0]["compensation"] = np.zeros(999, dtype=np.float32)
    said = fail(Marsit(), buckets, 2)
    assert "settings or tensors differ" in said[0]
    assert "'t0': expected its saved compensation as float32 (1000,), got float32 (999,); load" in said[1]


def test_memory_that_was_loaded_read_only_is_copied():
    scheme, inputs = Marsit(lr=0.5), gaussian(2, (1000,))
    buckets = buckets_for(scheme, inputs, step=1)
    loaded = np.ones(1000, dtype=np.float32)
    loaded.flags.writeable = False
    buckets[0].memory[0]["compensation"] = loaded
    run(scheme, buckets, inputs, kernels=kernel_cases.make("baseline"))
    np.testing.assert_array_equal(loaded, 1)
    assert np.any(buckets[0].memory[0]["compensation"] != 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", [1, 2])
def test_what_is_not_finite_on_one_rank_is_nan_on_all_and_leaves_no_trace(value, step):
    scheme, inputs = Marsit(sync_every=2), gaussian(3, (1000, 500))
    buckets = buckets_for(scheme, inputs)
    for earlier in range(step):
        run(scheme, at(buckets, earlier), inputs)
    before = [{key: array.copy() for key, array in bucket.memory[0].items()} for bucket in buckets]
    inputs[1][0][300] = value
    results = run(scheme, at(buckets, step), inputs)
    for outs in results:
        assert np.isnan(outs[0]).all()
        np.testing.assert_array_equal(outs[1], results[0][1])
        assert np.isfinite(outs[1]).all()
    for bucket, memory in zip(buckets, before, strict=True):
        assert memory.keys() == bucket.memory[0].keys()
        for key, array in memory.items():
            np.testing.assert_array_equal(bucket.memory[0][key], array)
    assert scheme.measure(buckets[0], World(3, 0)).nonfinite_blocks == 1


def test_inputs_are_left_alone_and_a_step_may_be_made_again():
    scheme, inputs = Marsit(lr=0.2), gaussian(2, (1000,))
    copies = [[t.copy() for t in i] for i in inputs]
    buckets = buckets_for(scheme, inputs, step=1)
    # As after a failure of the network: what was begun is thrown away.
    begun = [scheme.collectives(bucket, KERNELS, World(2, rank)) for rank, bucket in enumerate(buckets)]
    maxima = [next(exchange).buffer for exchange in begun]
    for buffer in maxima:
        buffer[...] = np.maximum(*maxima)
    for exchange in begun:
        next(exchange)
        exchange.close()
    for again, fresh in zip(run(scheme, buckets, inputs), allreduce(scheme, inputs, step=1), strict=True):
        np.testing.assert_array_equal(again, fresh)
    np.testing.assert_array_equal(inputs, copies)
