"""Variables whose gradients are given, ways to run a step, and the bound that results must keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

from hvd_gqsgd.maths import levels
from hvd_gqsgd.tensorflow import GlobalQSGD

#: The first two are compressed with default settings, the third travels as Horovod would send it.
SHAPES = {"conv/kernel": (8, 300), "dense/kernel": (1500,), "dense/bias": (10,)}

#: Ways to run a step: as it is, traced once, and traced never.
MODES = ("eager", "function", "functions run eagerly")


def gradient(name: str, shape: Sequence[int], rank: int, step: int = 0) -> np.ndarray:
    """What ``rank`` computes for variable ``name`` in ``step``, float64 (shape)."""
    seed = [len(name), sum(map(ord, name)), rank, step]
    return np.random.default_rng(seed).standard_normal(tuple(shape))


def make_variables(shapes=None, dtype=tf.float32) -> dict[str, tf.Variable]:
    shapes = SHAPES if shapes is None else shapes
    return {name: tf.Variable(tf.zeros(shape, dtype), name=name) for name, shape in shapes.items()}


def gradients_of(
    variables: dict[str, tf.Variable],
    compression: Any = GlobalQSGD,
    *,
    step: int | tf.Tensor = 0,
    given: dict[str, np.ndarray] | None = None,
    order: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Reduced gradients by Horovod's tape. given: this rank's own gradients, ``gradient`` by default."""
    given = given or {name: gradient(name, v.shape, hvd.rank(), step) for name, v in variables.items()}
    with tf.GradientTape() as tape:
        products = [tf.reduce_sum(v * tf.cast(given[name], v.dtype)) for name, v in variables.items()]
        loss = tf.add_n([tf.cast(product, tf.float64) for product in products])
    tape = hvd.DistributedGradientTape(tape, compression=compression, **options)
    order = list(variables) if order is None else order
    return dict(zip(order, tape.gradient(loss, [variables[name] for name in order]), strict=True))


def run(mode: str, work: Callable[[], Any]) -> Any:
    """``work()`` in one of ``MODES``."""
    if mode == "function":
        return tf.function(work)()
    if mode == "eager":
        return work()
    tf.config.run_functions_eagerly(True)
    try:
        return work()
    finally:
        tf.config.run_functions_eagerly(False)


def level_of(values: Sequence[np.ndarray], bits: int = 8, block_size: int = 256) -> np.ndarray:
    """What the mean may be off by, for each element: see tests/parallel/rig.py. values: every rank's tensor."""
    flat = np.array([np.abs(v).reshape(-1) for v in values])
    numel = flat.shape[1]
    blocks = np.pad(flat, ((0, 0), (0, -numel % block_size))).reshape(len(flat), -1, block_size)
    lengths = np.minimum(block_size, numel - block_size * np.arange(blocks.shape[1]))
    norms = 12 * np.sqrt((blocks**2).sum(axis=2) / lengths).max(axis=0)
    return (norms.repeat(block_size)[:numel] / levels.count_levels(bits, len(values))).reshape(values[0].shape)


def assert_is_mean(
    result: Any,
    name: str,
    *,
    step: int = 0,
    scale: float = 1.0,
    bits: int = 8,
    slack: float = 0.0,
    make: Callable[[int], np.ndarray] | None = None,
) -> None:
    """``result`` is scale * mean over all ranks, within one level; exactly the mean where nothing is compressed.

    slack: what was rounded away before the result came here.
    """
    dtype = result.dtype
    make = make or (lambda rank: gradient(name, result.shape, rank, step))
    values = [tf.cast(tf.cast(make(rank), dtype), tf.float64).numpy() for rank in range(hvd.size())]
    mean = sum(values) / len(values)
    epsilon = {tf.float64: 2.0**-52, tf.float32: 2.0**-23, tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7}[dtype]
    bound = slack + epsilon * 4 * max(np.abs(v).max() for v in values)
    if mean.size >= 1024 and hvd.size() > 1:
        bound = bound + level_of(values, bits)
    error = np.abs(tf.cast(result, tf.float64).numpy() / scale - mean)
    worst = (error - bound).max()
    assert worst <= 0, f"{name}: off by {error.max():.3g}, {worst:.3g} more than one level"


def assert_are_means(results: dict[str, Any], **expected: Any) -> None:
    for name, result in results.items():
        assert_is_mean(result, name, **expected)


def assert_same_on_all_ranks(tensor: Any) -> None:
    """Bit for bit."""
    bits = tf.reshape(tensor, [1, -1])
    everyone = hvd.allgather(bits).numpy()
    assert (everyone.view(f"u{everyone.itemsize}") == everyone[:1].view(f"u{everyone.itemsize}")).all()


def still_works() -> None:
    variables = make_variables()
    for mode in ("eager", "function"):
        assert_are_means(run(mode, lambda: gradients_of(variables)))
