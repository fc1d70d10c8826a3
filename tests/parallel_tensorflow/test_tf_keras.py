"""horovod.tensorflow.keras with tf_keras: model.fit under Horovod's own optimizer."""

import horovod.tensorflow as hvd
import horovod.tensorflow.keras as hvd_keras
import numpy as np
import pytest
import tensorflow as tf
from keras_rig import DATA, assert_trained_alike
from tf_rig import gradient, still_works

from hvd_gqsgd.tensorflow import GlobalQSGD

keras = tf.keras


def make_model():
    keras.utils.set_random_seed(hvd.rank())
    layers = [
        keras.layers.Dense(128, activation="relu", input_shape=(64,)),
        keras.layers.Dense(10),
        keras.layers.Activation("softmax", dtype="float32"),
    ]
    return keras.Sequential(layers)


def fit(optimizer, epochs=4, **compile_options):
    model = make_model()
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], **compile_options)
    x, y = DATA.shard()
    callbacks = [hvd_keras.callbacks.BroadcastGlobalVariablesCallback(0)]
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0, callbacks=callbacks)
    assert_trained_alike(model.trainable_variables)
    return model, DATA.accuracy_of(model)


@pytest.fixture
def mixed_float16():
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: keras.optimizers.Adam(0.01), {}),
        (lambda: keras.optimizers.Adam(0.01), {"compression": GlobalQSGD(bits=5)}),
        (lambda: keras.optimizers.legacy.Adam(0.01), {}),
        (lambda: keras.optimizers.Adam(0.01), {"groups": 2}),
        (lambda: keras.optimizers.Adam(0.01), {"gradient_predivide_factor": 2.0}),
        (lambda: keras.optimizers.Adam(0.01), {"op": hvd.Sum}),
        (lambda: keras.optimizers.Adam(0.02), {"backward_passes_per_step": 2, "average_aggregated_gradients": True}),
    ],
)
def test_fit(make, options):
    optimizer = hvd_keras.DistributedOptimizer(make(), **{"compression": GlobalQSGD, **options})
    assert fit(optimizer, epochs=8)[1] > 0.9


def test_the_optimizer_of_horovod_tensorflow_is_the_same():
    optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    assert fit(optimizer)[1] > 0.85


def test_horovod_keras_is_the_same():
    import horovod.keras

    optimizer = horovod.keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    assert fit(optimizer)[1] > 0.85


def test_several_steps_per_execution():
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    assert fit(optimizer, steps_per_execution=3)[1] > 0.85


def test_run_eagerly():
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    assert fit(optimizer, run_eagerly=True)[1] > 0.85


def test_mixed_float16(mixed_float16):
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    model, accuracy = fit(optimizer)
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    assert accuracy > 0.85


def test_every_rank_skips_the_step_in_which_one_rank_overflowed(several, mixed_float16):
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.SGD(1.0), compression=GlobalQSGD)
    optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=4.0, dynamic_growth_steps=1000)
    weights = tf.Variable(tf.zeros([2000]), name="w")

    @tf.function
    def step(given):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(weights * given)
        # Horovod's optimizer reduces in what model.fit calls, and not in apply_gradients.
        optimizer.minimize(loss, [weights], tape=tape)

    for turn in range(3):
        given = gradient("w", (2000,), hvd.rank(), turn).astype("f")
        if turn == 1 and hvd.rank() == several - 1:
            given[5] = np.inf
        before = weights.numpy()
        step(tf.constant(given))
        assert (turn == 1) == bool((weights.numpy() == before).all())
        assert float(optimizer.loss_scale) == (4.0 if turn < 1 else 2.0)
        assert_trained_alike([weights])


def test_a_saved_model_loads_with_and_without_horovod(tmp_path):
    optimizer = hvd_keras.DistributedOptimizer(keras.optimizers.Adam(0.01), compression=GlobalQSGD)
    model, _ = fit(optimizer, epochs=1)
    path = str(tmp_path / f"model{hvd.rank()}.h5")
    model.save(path)
    assert type(keras.models.load_model(path).optimizer).__name__ == "Adam"
    again = hvd_keras.load_model(path, compression=GlobalQSGD)
    x, y = DATA.shard()
    again.fit(x, y, epochs=3, batch_size=32, verbose=0)
    assert_trained_alike(again.trainable_variables)
    assert DATA.accuracy_of(again) > 0.85
    still_works()
