"""Wrong use is an error that says what is wrong, on every rank, and the next exchange works."""

import horovod.tensorflow as hvd
import pytest
import tensorflow as tf
from tf_rig import SHAPES, gradient, gradients_of, make_variables, run, still_works

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.tensorflow import GlobalQSGD

#: A graph that runs can only raise TensorFlow's own errors.
GRAPH = tf.errors.InvalidArgumentError
MODES = [("eager", GRAPH), ("function", GRAPH), ("functions run eagerly", DisagreementError)]


@pytest.mark.parametrize(("mode", "error"), MODES)
@pytest.mark.parametrize(
    ("usual", "odd"),
    [
        ({"bits": 8}, {"bits": 4}),
        ({"block_size": 256}, {"block_size": 64}),
        ({"seed": 0}, {"seed": 1}),
        ({"min_numel": 1024}, {"min_numel": 2000}),
    ],
)
def test_settings_that_differ_between_ranks(several, mode, error, usual, odd):
    mine = GlobalQSGD(**(odd if hvd.rank() == 1 else usual))
    variables = make_variables()
    with pytest.raises(error, match="DistributedGradientTape: .*rank 1 got GlobalQSGD") as caught:
        run(mode, lambda: gradients_of(variables, mine))
    for settings in (usual, odd):
        # TensorFlow escapes quotes.
        assert repr(GlobalQSGD(**settings)) in str(caught.value).replace("\\'", "'")
    still_works()


@pytest.mark.parametrize("numel", [1500, 3000])
def test_settings_of_a_direct_call_that_differ(several, numel):
    mine = GlobalQSGD(min_numel=2000 if hvd.rank() == 1 else 1000)
    x = tf.cast(gradient("x", (numel,), hvd.rank()), tf.float32)
    with pytest.raises(DisagreementError, match="allreduce of 'x': .*rank 1 got GlobalQSGD"):
        hvd.allreduce(x, name="x", compression=mine)
    still_works()


@pytest.mark.parametrize(("mode", "error"), MODES)
def test_shapes_that_differ_between_ranks(several, mode, error):
    variables = make_variables({"w": (3000,), "v": (2000, 2) if hvd.rank() == 0 else (4000,)})
    with pytest.raises(error, match=r"rank 0 got #1 v \[2000, 2\] float32") as caught:
        run(mode, lambda: gradients_of(variables))
    assert "w [3000]" not in str(caught.value)
    still_works()


@pytest.mark.parametrize(("mode", "error"), MODES)
def test_dtypes_that_differ_between_ranks(several, mode, error):
    variables = make_variables(dtype=tf.float16 if hvd.rank() == 0 else tf.float32)
    with pytest.raises(error, match=r"rank 0 got .*#0 conv/kernel \[8, 300\] float16"):
        run(mode, lambda: gradients_of(variables))
    still_works()


@pytest.mark.parametrize(("mode", "error"), MODES)
def test_variables_in_another_order_on_one_rank(several, mode, error):
    # Horovod's own names depend on the order: without compression it reduces the wrong pairs, or waits for ever.
    variables = make_variables({"b": (3000,), "a": (3000,), "c": (5,)})
    order = ["a", "b", "c"] if hvd.rank() == 0 else ["c", "b", "a"]
    with pytest.raises(error, match=r"rank 0 got .*#0 a \[3000\]"):
        run(mode, lambda: gradients_of(variables, order=order))
    still_works()


@pytest.mark.parametrize(("mode", "error"), MODES)
def test_a_variable_that_one_rank_does_not_train(several, mode, error):
    variables = make_variables()
    order = list(SHAPES)[1:] if hvd.rank() == 1 else list(SHAPES)
    with pytest.raises(error, match="expected the same tensors on every rank, but"):
        run(mode, lambda: gradients_of(variables, order=order))
    still_works()


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_too_many_ranks_for_the_bits(several, mode):
    # 2 bits have one level on each side: for one rank.
    variables = make_variables()
    with pytest.raises(GRAPH, match=f"GlobalQSGD\\(bits=2\\) on {several} ranks.*write bits="):
        run(mode, lambda: gradients_of(variables, GlobalQSGD(bits=2)))
    with pytest.raises(SettingsError, match=f"allreduce of 'x'.*bits=2\\) on {several} ranks.*write bits="):
        hvd.allreduce(tf.zeros([3000]), name="x", compression=GlobalQSGD(bits=2))
    still_works()


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_too_many_ranks_known_when_the_graph_runs(several, mode, monkeypatch):
    monkeypatch.setenv("HOROVOD_ELASTIC", "1")
    variables = make_variables()
    with pytest.raises(GRAPH, match=r"bits=2\): expected at most 1 ranks, got \d; write more bits"):
        run(mode, lambda: gradients_of(variables, GlobalQSGD(bits=2, seed=3)))
    monkeypatch.delenv("HOROVOD_ELASTIC")
    still_works()


def test_too_many_ranks_for_the_bits_of_one_rank(several):
    mine = GlobalQSGD(bits=2 if hvd.rank() == 1 else 8)
    with pytest.raises(GRAPH, match="rank 1: .*bits=2"):
        gradients_of(make_variables(), mine)
    still_works()


def test_a_misspelt_setting():
    with pytest.raises(SettingsError, match="write block_size=64"):
        GlobalQSGD(blocksize=64)
