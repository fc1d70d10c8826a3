"""hvd_gqsgd.tensorflow.keras: model.fit under Keras 3."""

import horovod.tensorflow as hvd
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras_rig import DATA, assert_trained_alike
from tf_rig import assert_is_mean, gradient, still_works

import hvd_gqsgd.tensorflow.keras as hvd_keras
from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.tensorflow import GlobalQSGD


def make_model():
    keras.utils.set_random_seed(hvd.rank())
    layers = [
        keras.Input((64,)),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10),
        keras.layers.Activation("softmax", dtype="float32"),
    ]
    return keras.Sequential(layers)


def fit(optimizer, epochs=4, **compile_options):
    model = make_model()
    options = {"jit_compile": False, **compile_options}
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **options)
    x, y = DATA.shard()
    callbacks = [hvd_keras.BroadcastGlobalVariablesCallback(0), hvd_keras.MetricAverageCallback()]
    history = model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=callbacks).history
    assert_trained_alike([np.asarray(v) for v in model.trainable_variables])
    assert_trained_alike([np.float32(history["loss"])])
    return model, DATA.accuracy_of(model)


@pytest.fixture
def mixed_float16():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: keras.optimizers.Adam(0.01), {}),
        (lambda: keras.optimizers.Adam(0.01), {"compression": GlobalQSGD(bits=5)}),
        (lambda: keras.optimizers.Adam(0.01), {"compression": hvd.Compression.none}),
        (lambda: keras.optimizers.Adam(0.01), {"compression": hvd.Compression.fp16}),
        (lambda: keras.optimizers.Adam(0.01), {"groups": 2}),
        (lambda: keras.optimizers.Adam(0.01), {"gradient_predivide_factor": 2.0}),
        (lambda: keras.optimizers.Adam(0.01), {"op": hvd.Sum}),
        (lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=2), {}),
    ],
)
def test_fit(make, options):
    optimizer = hvd_keras.DistributedOptimizer(make(), **{"compression": GlobalQSGD, **options})
    assert fit(optimizer, epochs=8)[1] > 0.9


@pytest.mark.parametrize("options", [{"steps_per_execution": 3}, {"run_eagerly": True}])
def test_ways_to_run(options):
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    assert fit(optimizer, **options)[1] > 0.85


def test_it_is_what_horovods_tape_does(several):
    # The same gradients, the same settings and steps: the same bits as horovod's own tape gives.
    variables = [keras.Variable(np.zeros(2000, "f"), name="w"), keras.Variable(np.zeros(3, "f"), name="b")]
    given = [gradient("w", (2000,), hvd.rank()).astype("f"), gradient("b", (3,), hvd.rank()).astype("f")]
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.SGD(1.0), compression=GlobalQSGD(seed=5))
    optimizer.apply([tf.constant(g) for g in given], variables)
    state = GlobalQSGD(seed=5).state()
    state.step.assign_sub(1)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(v.value * g) for v, g in zip(variables, given, strict=True)])
    tape = hvd.DistributedGradientTape(tape, compression=GlobalQSGD(seed=5))
    for variable, result in zip(variables, tape.gradient(loss, [v.value for v in variables]), strict=True):
        np.testing.assert_array_equal(np.asarray(variable), -result.numpy())


def test_mixed_float16_with_the_loss_scaling_inside(mixed_float16):
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    assert fit(hvd_keras.DistributedOptimizer(inner, compression=GlobalQSGD))[1] > 0.85


def test_every_rank_skips_the_step_in_which_one_rank_overflowed(several):
    inner = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=4.0)
    optimizer = hvd_keras.DistributedOptimizer(inner, compression=GlobalQSGD)
    weights = keras.Variable(np.zeros(2000, "f"), name="w")
    for turn in range(3):
        given = gradient("w", (2000,), hvd.rank(), turn).astype("f") * 4
        if turn == 1 and hvd.rank() == several - 1:
            given[5] = np.inf
        before = np.array(weights)
        optimizer.apply([tf.constant(given)], [weights])
        assert (turn == 1) == bool((np.asarray(weights) == before).all())
        assert float(optimizer.dynamic_scale) == (4.0 if turn < 1 else 2.0)
        assert_trained_alike([weights])


def test_loss_scaling_outside_says_so(several, mixed_float16):
    # As model.compile puts it around an optimizer that has none: each rank would decide alone whether to skip a step.
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    with pytest.raises(UnsupportedError, match="write DistributedOptimizer.keras.optimizers.LossScaleOptimizer"):
        fit(optimizer)
    still_works()


def test_xla_says_so(several):
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    with pytest.raises(UnsupportedError, match=r"DistributedAdam .*write .*jit_compile=False"):
        fit(optimizer, jit_compile=True)
    still_works()


def test_what_is_no_optimizer_of_keras_3_says_so():
    once = hvd_keras.DistributedOptimizer(keras.optimizers.SGD(0.1))
    for wrong in (tf.keras.optimizers.SGD(0.1), once, "sgd"):
        with pytest.raises(UnsupportedError, match="DistributedOptimizer of .*expected an optimizer of Keras"):
            hvd_keras.DistributedOptimizer(wrong, compression=GlobalQSGD)


@pytest.mark.parametrize("options", [{"op": hvd.Min}, {"op": hvd.Adasum}, {"groups": 0}])
def test_arguments_that_horovod_refuses_are_refused(options):
    with pytest.raises(ValueError, match="DistributedOptimizer: expected"):
        hvd_keras.DistributedOptimizer(keras.optimizers.SGD(0.1), **options)


def test_groups_of_variables():
    model = make_model()
    groups = [[model.trainable_variables[0], model.trainable_variables[3]]]
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.SGD(1.0), compression=GlobalQSGD, groups=groups)
    before = [np.array(v) for v in model.trainable_variables]
    given = [gradient(str(i), v.shape, hvd.rank()).astype("f") for i, v in enumerate(before)]
    optimizer.apply([tf.constant(g) for g in given], model.trainable_variables)
    for index, (old, new) in enumerate(zip(before, model.trainable_variables, strict=True)):
        assert_is_mean(tf.constant(old - np.asarray(new)), str(index), slack=1e-5)


def test_an_optimizer_keeps_what_it_has_and_a_model_loads_with_and_without_us(tmp_path):
    optimizer = keras.optimizers.Adam(0.01)
    assert hvd_keras.DistributedOptimizer(optimizer, compression=GlobalQSGD) is optimizer
    model, _ = fit(optimizer, epochs=1)
    path = str(tmp_path / f"model{hvd.rank()}.keras")
    model.save(path)
    assert type(keras.models.load_model(path).optimizer) is keras.optimizers.Adam
    again = hvd_keras.load_model(path, compression=GlobalQSGD)
    assert int(again.optimizer.iterations) == int(optimizer.iterations) > 0
    x, y = DATA.shard()
    again.fit(x, y, epochs=3, batch_size=32, verbose=0)
    assert_trained_alike([np.asarray(v) for v in again.trainable_variables])
    assert DATA.accuracy_of(again) > 0.85


def test_a_model_without_an_optimizer_says_so(tmp_path):
    path = str(tmp_path / f"bare{hvd.rank()}.keras")
    make_model().save(path)
    with pytest.raises(UnsupportedError, match="expected a compiled model"):
        hvd_keras.load_model(path)
