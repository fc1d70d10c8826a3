"""A small convolutional net on scikit-learn's digits, trained by several ranks with Horovod's gradient tape.

    horovodrun -np 2 python examples/tensorflow_digits.py --compression gqsgd --bits 4

What differs from a Horovod script without compression is the argument ``compression=`` alone.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # Horovod's tape takes TensorFlow's variables, not Keras 3's

import digits
import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import hvd_gqsgd.tensorflow as gqsgd


def make_model() -> tf.keras.Model:
    return tf.keras.Sequential(
        [
            tf.keras.layers.Conv2D(32, 3, padding="same", activation="relu", input_shape=(8, 8, 1)),
            tf.keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            tf.keras.layers.MaxPool2D(),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(128, activation="relu"),
            tf.keras.layers.Dense(10),
        ]
    )


def main() -> None:
    args = digits.parse_arguments(__doc__)
    hvd.init()
    tf.keras.utils.set_random_seed(args.seed)
    tf.config.threading.set_intra_op_parallelism_threads(1)  # several ranks share this machine

    train_x, train_y, test_x, test_y = digits.make_data(args.seed)
    model = make_model()
    optimizer = tf.keras.optimizers.SGD(args.lr * hvd.size(), momentum=0.9)
    optimizer.build(model.trainable_variables)
    compression = digits.compression_of(args, hvd, gqsgd)

    @tf.function
    def train_step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=True))
            loss = tf.reduce_mean(losses)
        tape = hvd.DistributedGradientTape(tape, compression=compression)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    hvd.broadcast_variables(model.variables, root_rank=0)
    hvd.broadcast_variables(optimizer.variables, root_rank=0)

    per_epoch = len(train_x) // (hvd.size() * args.batch_size)
    steps = args.epochs * per_epoch
    shuffle = np.random.default_rng(args.seed)
    gqsgd.traffic.reset()
    started = time.perf_counter()
    with tqdm(total=steps, desc=args.compression, disable=hvd.rank() != 0, mininterval=0.5) as bar:
        for epoch in range(args.epochs):
            own = shuffle.permutation(len(train_x))[hvd.rank() :: hvd.size()]
            for start in range(0, per_epoch * args.batch_size, args.batch_size):
                batch = own[start : start + args.batch_size]
                loss = train_step(tf.constant(train_x[batch][..., None]), tf.constant(train_y[batch]))
                bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{float(loss):.3f}")

    if hvd.rank() == 0:
        digits.report(
            args,
            ranks=hvd.size(),
            accuracy=float((model(test_x[..., None]).numpy().argmax(axis=1) == test_y).mean()),
            dense_bytes=sum(4 * v.shape.num_elements() for v in model.trainable_variables),
            sent_bytes=gqsgd.traffic.sent_bytes // steps,
            seconds=time.perf_counter() - started,
        )


if __name__ == "__main__":
    main()
