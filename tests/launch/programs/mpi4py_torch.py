"""Tests for the ranks of an MPI job that mpi4py has split into groups; test_mpi4py.py starts them."""

from __future__ import annotations

from functools import partial

import horovod.torch as hvd
import pytest
from groups import SPLITS, WORLD, split
from rig import SHAPES, assert_is_mean, gradient, make_optimizer, make_parameters, mean_of
from rig import backward as backward_of

from hvd_gqsgd.errors import DisagreementError
from hvd_gqsgd.torch import GlobalQSGD

# What a rank computes is a function of its place in the world, so a mean says whose it is.
backward = partial(backward_of, rank=WORLD.rank)


@pytest.fixture(autouse=True)
def in_step():
    """All groups are in the same test."""
    WORLD.Barrier()


@pytest.fixture(scope="module", params=SPLITS)
def group(request):
    group = split(request.param)
    hvd.init(comm=group.comm)
    yield group
    hvd.shutdown()


def assert_is_mean_of(group, result, name, step=0, bits=None):
    shape = result.shape
    bits = bits or group.settings["bits"]
    values = [gradient(name, shape, member, step) for member in group.members]
    assert_is_mean(result, name, bits=bits, make=values.__getitem__)
    if not group.is_all:
        off = result.double() - mean_of(name, shape, step=step, ranks=range(WORLD.size))
        own = result.double() - sum(v.double() for v in values) / len(values)
        assert own.norm() < off.norm() / 1.2, f"{name} is the mean over the world"


def assert_gradients_are_right(group, parameters, optimizer, step, bits=None):
    optimizer.synchronize()
    for name, parameter in parameters.items():
        assert_is_mean_of(group, parameter.grad, name, step, bits)
    with optimizer.skip_synchronize():
        optimizer.step()
    optimizer.zero_grad()


def assert_steps_are_right(group, parameters, optimizer, steps, bits=None):
    for step in steps:
        backward(parameters, step)
        assert_gradients_are_right(group, parameters, optimizer, step, bits)


def test_an_optimizer_goes_on_in_another_split():
    parameters = make_parameters()
    optimizer = None
    # Made where there are several ranks: for one alone, Horovod's optimizer never exchanges anything.
    for start, how in enumerate(["everyone, last first", "odd and even", "everyone, last first"]):
        group = split(how)
        hvd.init(comm=group.comm)
        optimizer = optimizer or make_optimizer(parameters, GlobalQSGD)
        assert_steps_are_right(group, parameters, optimizer, range(3 * start, 3 * start + 3), bits=8)
        hvd.shutdown()


def test_ranks_are_those_of_the_group(group):
    assert (hvd.size(), hvd.rank()) == (len(group.members), group.rank)
    assert hvd.global_process_set.ranks == list(range(hvd.size()))


def test_gradients_are_means_over_the_group(group):
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(**group.settings))
    assert_steps_are_right(group, parameters, optimizer, range(3))


def test_groups_need_not_take_as_many_steps(group):
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(**group.settings))
    assert_steps_are_right(group, parameters, optimizer, range(1 + 3 * group.number))


def test_allreduce_is_over_the_group(group):
    for step in range(2):
        own = [gradient(name, shape, WORLD.rank, step) for name, shape in SHAPES.items()]
        compression = GlobalQSGD(**group.settings)
        for name, tensor in zip(SHAPES, own, strict=True):
            assert_is_mean_of(group, hvd.allreduce(tensor, name=name, compression=compression), name, step)
        results = hvd.grouped_allreduce(own, name="all", compression=compression)
        for name, result in zip(SHAPES, results, strict=True):
            assert_is_mean_of(group, result, name, step)


@pytest.mark.parametrize("how", ["optimizer", "allreduce"])
def test_a_difference_is_an_error_of_its_group_alone(group, how):
    odd = group.number == 0 and hvd.rank() == 1
    settings = GlobalQSGD(**group.settings, min_numel=2000 if odd else 1024)
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, settings)
    said = "nothing"
    try:
        if how == "optimizer":
            assert_steps_are_right(group, parameters, optimizer, range(2))
        else:
            result = hvd.allreduce(gradient("x", (3000,), WORLD.rank), name="x", compression=settings)
            assert_is_mean_of(group, result, "x")
    except DisagreementError as error:
        said = str(error)
    assert ("rank 1 got GlobalQSGD" in said) == (group.number == 0), said
    assert len(set(WORLD.allgather((group.number, said)))) == (1 if group.is_all else 2)

    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(**group.settings))
    assert_steps_are_right(group, parameters, optimizer, range(2))


def test_mpi4py_talks_to_the_whole_world_meanwhile(group):
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(**group.settings))
    for step in range(3):
        backward(parameters, step)
        assert WORLD.allgather(WORLD.rank) == list(range(WORLD.size))
        assert_gradients_are_right(group, parameters, optimizer, step)
