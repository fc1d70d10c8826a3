"""Training steps of the multilayer perceptron in TensorFlow: traced functions with Horovod's tape in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from benchmarks.programs.rounds import rounds
from benchmarks.workloads.digits import digits
from hvd_gqsgd.tensorflow import GlobalQSGD

#: Hidden layers and their width: 25.3 million parameters, as benchmarks.workloads.mlp.
LAYERS, WIDTH = 7, 2048


def run(options: dict[str, Any]) -> dict[str, Any]:
    """seconds: for all rounds; threads: of each rank. Returns cells by contender."""
    tf.config.threading.set_intra_op_parallelism_threads(int(options["threads"]))
    tf.config.threading.set_inter_op_parallelism_threads(int(options["threads"]) + 1)
    compressions = {
        "local": None,
        "hvd none": hvd.Compression.none,
        "hvd fp16": hvd.Compression.fp16,
        **{f"gqsgd{bits}": GlobalQSGD(bits=bits) for bits in options["bits"]},
    }
    timed = {}
    for name, compression in compressions.items():
        timed[name] = _contender(compression)
    return rounds(timed, float(options["seconds"]))


def _contender(compression: Any) -> Callable[[int], float]:
    rng = np.random.default_rng(0)
    widths = [64, *[WIDTH] * LAYERS, 10]
    kernels = [
        tf.Variable((rng.standard_normal((i, o)) * np.sqrt(2 / i)).astype(np.float32), name=f"layer_{k}/kernel")
        for k, (i, o) in enumerate(pairwise(widths))
    ]
    biases = [tf.Variable(tf.zeros([o]), name=f"layer_{k}/bias") for k, o in enumerate(widths[1:])]
    variables = [v for pair in zip(kernels, biases, strict=True) for v in pair]
    momenta = [tf.Variable(tf.zeros_like(v), trainable=False) for v in variables]

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            x = images
            for kernel, bias in zip(kernels, biases, strict=True):
                x = tf.matmul(x, kernel) + bias
                if bias is not biases[-1]:
                    x = tf.nn.relu(x)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x))
        if compression is not None:
            tape = hvd.DistributedGradientTape(tape, compression=compression)
        for variable, momentum, gradient in zip(variables, momenta, tape.gradient(loss, variables), strict=True):
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle, accum=momentum.handle, lr=0.01, grad=gradient, momentum=0.9
            )
        return loss

    def call(number: int) -> float:
        images, labels = digits(32, number, hvd.rank())
        return float(step(tf.constant(images.numpy().reshape(32, 64)), tf.constant(labels.numpy())))

    return call
