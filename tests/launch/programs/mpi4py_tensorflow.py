"""mpi4py_torch.py for TensorFlow, in a process of its own."""

from __future__ import annotations

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from groups import SPLITS, WORLD, split
from tf_rig import SHAPES, assert_is_mean, gradient, gradients_of, level_of, make_variables, run

from hvd_gqsgd.errors import DisagreementError
from hvd_gqsgd.tensorflow import GlobalQSGD

MODES = ("eager", "function")


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


def assert_is_mean_of(group, result, name, step=0, bits=None, slack=0.0):
    shape = result.shape
    bits = bits or group.settings["bits"]
    values = [gradient(name, shape, member, step) for member in group.members]
    assert_is_mean(result, name, bits=bits, slack=slack, make=values.__getitem__)
    if not group.is_all:
        everyone = [gradient(name, shape, rank, step) for rank in range(WORLD.size)]
        exact = tf.cast(result, tf.float64).numpy()
        off, own = (np.linalg.norm(exact - sum(v) / len(v)) for v in (everyone, values))
        assert own < off / 1.2, f"{name} is the mean over the world"


def assert_steps_are_right(group, mode, compression, steps):
    variables = make_variables()
    for step in steps:
        # What a rank computes is a function of its place in the world, so a mean says whose it is.
        given = {name: gradient(name, shape, WORLD.rank, step) for name, shape in SHAPES.items()}
        results = run(mode, lambda given=given: gradients_of(variables, compression, given=given))
        for name, result in results.items():
            assert_is_mean_of(group, result, name, step)


@pytest.mark.parametrize("mode", MODES)
def test_a_graph_goes_on_in_another_split(mode):
    variables = make_variables()
    given = {name: tf.Variable(tf.zeros(shape, tf.float64), trainable=False) for name, shape in SHAPES.items()}
    compression = GlobalQSGD(seed=100 + MODES.index(mode))

    def step():
        return gradients_of(variables, compression, given=given)

    # The user's own graph, or the one that Horovod keeps for a tape in eager mode.
    step = tf.function(step) if mode == "function" else step
    # First where there are several ranks: Horovod's own graphs of a rank that was alone never exchange anything.
    for number, how in enumerate(["everyone, last first", "odd and even", "everyone, last first"]):
        group = split(how)
        hvd.init(comm=group.comm)
        for name, variable in given.items():
            variable.assign(gradient(name, variable.shape, WORLD.rank, number))
        for name, result in step().items():
            # For the same reason a rank that is alone now goes on rounding.
            alone = hvd.size() == 1 and result.shape.num_elements() >= 1024
            slack = level_of([gradient(name, result.shape, WORLD.rank, number)], 8) if alone else 0.0
            assert_is_mean_of(group, result, name, number, bits=8, slack=slack)
        hvd.shutdown()


def test_ranks_are_those_of_the_group(group):
    assert (hvd.size(), hvd.rank()) == (len(group.members), group.rank)
    assert hvd.global_process_set.ranks == list(range(hvd.size()))


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_means_over_the_group(group, mode):
    assert_steps_are_right(group, mode, GlobalQSGD(**group.settings), range(3))


@pytest.mark.parametrize("mode", MODES)
def test_groups_need_not_take_as_many_steps(group, mode):
    assert_steps_are_right(group, mode, GlobalQSGD(**group.settings), range(1 + 2 * group.number))


@pytest.mark.parametrize("mode", MODES)
def test_allreduce_is_over_the_group(group, mode):
    compression = GlobalQSGD(**group.settings)
    own = {name: tf.constant(gradient(name, shape, WORLD.rank), tf.float32) for name, shape in SHAPES.items()}

    def work():
        each = [hvd.allreduce(tensor, name=name, compression=compression) for name, tensor in own.items()]
        return each, hvd.grouped_allreduce(list(own.values()), name="all", compression=compression)

    for results in run(mode, work):
        for name, result in zip(own, results, strict=True):
            assert_is_mean_of(group, result, name)


@pytest.mark.parametrize("mode", MODES)
def test_a_difference_is_an_error_of_its_group_alone(group, mode):
    odd = group.number == 0 and hvd.rank() == 1
    said = "nothing"
    try:
        assert_steps_are_right(group, mode, GlobalQSGD(**group.settings, min_numel=2000 if odd else 1024), range(2))
    except (DisagreementError, tf.errors.InvalidArgumentError) as error:
        said = str(error)
    assert ("rank 1 got GlobalQSGD" in said) == (group.number == 0), said
    assert WORLD.allgather(said != "nothing") == [in_first == 0 for in_first in WORLD.allgather(group.number)]
    assert_steps_are_right(group, mode, GlobalQSGD(**group.settings), range(2))
