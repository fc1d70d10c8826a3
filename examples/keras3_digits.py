"""A small convolutional net on scikit-learn's digits, trained by several ranks with model.fit under Keras 3.

    horovodrun -np 2 python examples/keras3_digits.py --compression gqsgd --bits 4

Horovod's own Keras support is for Keras 2; hvd_gqsgd.tensorflow.keras has the same names and arguments for Keras 3.
"""

from __future__ import annotations

import time

import digits
import horovod.tensorflow as hvd
import keras
import tensorflow as tf

import hvd_gqsgd.tensorflow as gqsgd
import hvd_gqsgd.tensorflow.keras as hvd_keras


def make_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
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
    optimizer = hvd_keras.DistributedOptimizer(
        keras.optimizers.SGD(args.lr * hvd.size(), momentum=0.9), compression=compression
    )
    model = make_model()
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Horovod's operations do not run under XLA
    )

    steps = args.epochs * (length // args.batch_size)
    gqsgd.traffic.reset()
    started = time.perf_counter()
    model.fit(
        train_x[own][:length, ..., None],
        train_y[own][:length],
        batch_size=args.batch_size,
        epochs=args.epochs,
        # Average the metrics first: every rank then takes the same decision about its step size.
        callbacks=[
            hvd_keras.BroadcastGlobalVariablesCallback(0),
            hvd_keras.MetricAverageCallback(),
            keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=5),
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
