"""hvd.DistributedGradientTape in tf.function: traced once, called often, in one another; what a call finds anew."""

import horovod.tensorflow as hvd
import numpy as np
import pytest
import tensorflow as tf
from tf_rig import assert_are_means, assert_is_mean, gradient, gradients_of, make_variables, run

from hvd_gqsgd.tensorflow import GlobalQSGD


def test_every_step_of_a_traced_function_has_a_fresh_dither(several):
    variables = make_variables()
    traces = []

    @tf.function
    def step():
        traces.append(None)
        return gradients_of(variables)["conv/kernel"]

    results = np.stack([step().numpy() for _ in range(40)])
    assert len(traces) == 1
    assert len(np.unique(results, axis=0)) == 40
    # Unbiased: the mean of 40 independent steps is closer to the truth than one step, by about sqrt(40).
    truth = sum(gradient("conv/kernel", (8, 300), rank) for rank in range(several)) / several
    single = np.sqrt(np.mean((results[0] - truth) ** 2))
    assert np.sqrt(np.mean((results.mean(axis=0) - truth) ** 2)) < single / 4


def test_two_tapes_in_one_function():
    first, second = make_variables(), make_variables({"critic/kernel": (40, 50), "critic/bias": (3,)})

    @tf.function
    def step():
        return gradients_of(first), gradients_of(second), gradients_of(first, step=1)

    for _ in range(3):
        one, two, three = step()
        assert_are_means(one)
        assert_are_means(two)
        assert_are_means(three, step=1)


def test_one_function_called_several_times_in_another():
    variables = make_variables()
    inner = tf.function(lambda step: gradients_of(variables, given={n: own[n] * step for n in own}))
    own = {name: tf.constant(gradient(name, v.shape, hvd.rank()), tf.float32) for name, v in variables.items()}
    outer = tf.function(lambda: [inner(tf.constant(step)) for step in (1.0, 2.0, 3.0, 4.0)])
    for _ in range(3):
        for step, results in enumerate(outer(), start=1):
            assert_are_means(results, scale=step)


def test_functions_that_were_traced_apart_meet_in_one():
    # As two optimizers of Keras do, whose functions Horovod makes in eager mode.
    names = ["first", "second"]
    variables = {name: tf.Variable(tf.zeros([3000]), name=name) for name in names}
    own = {name: tf.constant(gradient(name, (3000,), hvd.rank()), tf.float32) for name in names}
    reduce = {
        name: hvd._make_allreduce_grads_fn(
            name, "", "", GlobalQSGD(bits=bits), False, hvd.Average, 1.0, None, process_set=hvd.global_process_set
        )
        for name, bits in zip(names, (8, 9), strict=True)
    }

    @tf.function
    def step(which):
        return {name: reduce[name]([own[name]], [variables[name]])[0] for name in which.split()}

    for which in ("first", "second", "first second", "second first"):
        for _ in range(3):
            assert_are_means(step(which))


def test_a_loop_inside_of_a_function():
    variables = make_variables({"w": (3000,)})
    given = tf.constant(gradient("w", (3000,), hvd.rank()), tf.float32)

    @tf.function
    def steps(count):
        for _ in tf.range(count):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(variables["w"] * given)
            tape = hvd.DistributedGradientTape(tape, compression=GlobalQSGD)
            variables["w"].assign_add(tape.gradient(loss, [variables["w"]])[0])

    steps(tf.constant(20))
    assert_is_mean(variables["w"].read_value(), "w", scale=20)


def test_a_function_traced_again_on_one_rank_alone(several):
    variables = make_variables()

    @tf.function
    def step(batch):
        return gradients_of(variables, given=None), tf.reduce_sum(batch)

    for turn in range(3):
        # The last batch of one rank is smaller.
        numel = 3 if turn == 2 and hvd.rank() == 0 else 4
        assert_are_means(step(tf.zeros([numel]))[0])


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_a_size_that_only_the_running_graph_knows(mode, monkeypatch):
    # In an elastic run Horovod's own functions ask for size and membership when the graph runs, and so do ours.
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    variables = make_variables({"elastic/kernel": (9, 400), "elastic/bias": (4,)})
    assert_are_means(run(mode, lambda: gradients_of(variables)))


def test_compression_may_be_made_anew_in_every_step(several):
    variables = make_variables({"anew": (2000,)})
    results = [gradients_of(variables, GlobalQSGD(bits=6))["anew"].numpy() for _ in range(3)]
    assert len(np.unique(np.stack(results), axis=0)) == 3
