"""A small convolutional net on scikit-learn's digits, trained by several ranks with model.fit under Keras 2 (tf_keras).

    horovodrun -np 2 python examples/keras_digits.py --compression gqsgd --bits 4

What differs from a Horovod script without compression is the argument ``compression=`` alone. For Keras 3 see
keras3_digits.py.
"""

from __future__ import annotations

import os
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # before TensorFlow is imported: Horovod's Keras support is for Keras 2

import digits
import horovod.tensorflow.keras as hvd
import tensorflow as tf
from tensorflow import keras

import hvd_gqsgd.tensorflow as gqsgd


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", input_shape=(8, 8, 1)),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.MaxPool2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def main() -> None:
    args = digits.parse_arguments(__doc__)
    hvd.init()
    keras.utils.set_random_seed(args.seed)
    tf.config.threading.set_intra_op_parallelism_threads(1)  # several ranks share this machine

    train_x, train_y, test_x, test_y = digits.make_data(args.seed)
    length = len(train_x) // (hvd.size() * args.batch_size) * args.batch_size
    own = slice(hvd.rank(), None, hvd.size())

    compression = digits.compression_of(args, hvd, gqsgd)
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(args.lr * hvd.size(), momentum=0.9), compression=compression
    )
    model = make_model()
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])

    steps = args.epochs * (length // args.batch_size)
    gqsgd.traffic.reset()
    started = time.perf_counter()
    model.fit(
        train_x[own][:length, ..., None],
        train_y[own][:length],
        batch_size=args.batch_size,
        epochs=args.epochs,
        callbacks=[
            hvd.callbacks.BroadcastGlobalVariablesCallback(0),
            # The same step size on every rank: one that follows a rank's own loss would drive them apart.
            keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * (0.3 if epoch == args.epochs * 2 // 3 else 1)),
        ],
        verbose=1 if hvd.rank() == 0 else 0,  # one progress bar
    )

    if hvd.rank() == 0:
        digits.report(
            args,
            ranks=hvd.size(),
            accuracy=float(model.evaluate(test_x[..., None], test_y, verbose=0)[1]),
            dense_bytes=sum(4 * v.shape.num_elements() for v in model.trainable_variables),
            sent_bytes=gqsgd.traffic.sent_bytes // steps,
            seconds=time.perf_counter() - started,
        )


if __name__ == "__main__":
    main()
