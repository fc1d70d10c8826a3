"""A Keras 3 optimizer that reduces its gradients over all ranks before it applies them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.tensorflow.calls import refuse_xla

if int(keras.__version__.split(".")[0]) < 3 or keras.config.backend() != "tensorflow":
    raise UnsupportedError(
        f"hvd_gqsgd.tensorflow.keras: expected Keras 3 on TensorFlow, got Keras {keras.__version__} on "
        f"{keras.backend.backend()}; write KERAS_BACKEND=tensorflow, or import horovod.tensorflow.keras for Keras 2"
    )


_LOSS_SCALING = inspect.getsourcefile(keras.optimizers.LossScaleOptimizer)


class _Reducing:
    """What is put in front of an optimizer's class; ``_reduce`` comes with it."""

    _reduce: Any
    _trainable_variables: Any

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> Any:
        """As in Keras, with gradients reduced over all ranks."""
        _refuse_loss_scaling_outside(self)
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if grads:
            grads = self._reduce(list(grads), [v.value for v in variables])
        return super().apply(grads, trainable_variables)  # type: ignore[misc]


def DistributedOptimizer(
    optimizer: keras.optimizers.Optimizer,
    name: str | None = None,
    device_dense: str = "",
    device_sparse: str = "",
    compression: Any = hvd.Compression.none,
    sparse_as_dense: bool = False,
    gradient_predivide_factor: float = 1.0,
    op: Any = hvd.Average,
    groups: Any = None,
    process_set: hvd.ProcessSet = hvd.global_process_set,
) -> keras.optimizers.Optimizer:
    """``optimizer`` itself, which from now on reduces its gradients in ``apply``. Its variables stay as they are.

    Arguments as in horovod.tensorflow.keras.DistributedOptimizer. A model saved with it loads anywhere with a plain
    optimizer, and with ``load_model`` of this module with a distributed one. With gradient_accumulation_steps, every
    step is reduced. Loss scaling goes inside: DistributedOptimizer(keras.optimizers.LossScaleOptimizer(opt)).

    Raises ValueError for another op and for groups that are not positive; UnsupportedError for what is no Keras 3
    optimizer or distributed already, and in ``apply`` for loss scaling outside of it, which would let each rank decide
    alone whether to skip a step, and for jit_compile=True.
    """
    base = type(optimizer)
    if not isinstance(optimizer, keras.optimizers.Optimizer) or isinstance(optimizer, _Reducing):
        raise UnsupportedError(
            f"DistributedOptimizer of {base.__module__}.{base.__name__}: expected an optimizer of Keras "
            f"{keras.__version__} that is not distributed yet; write for instance keras.optimizers.SGD(0.1), or for an "
            "optimizer of tf_keras horovod.tensorflow.keras.DistributedOptimizer"
        )
    if op not in (hvd.Average, hvd.Sum):
        raise ValueError("DistributedOptimizer: expected op Average or Sum; write op=hvd.Average")
    if isinstance(groups, list):
        groups = [[v.value if isinstance(v, keras.Variable) else v for v in group] for group in groups]
    elif groups is not None and groups <= 0:
        raise ValueError(f"DistributedOptimizer: expected groups to be positive or lists of variables, got {groups!r}")
    name = name or f"Distributed{base.__name__}"
    allreduce = hvd._make_allreduce_grads_fn(
        name,
        device_dense,
        device_sparse,
        compression,
        sparse_as_dense,
        op,
        gradient_predivide_factor,
        groups,
        process_set=process_set,
    )

    def reduce(gradients: list[Any], variables: list[tf.Variable]) -> list[Any]:
        refuse_xla(name, getattr(compression, "__name__", type(compression).__name__))
        return allreduce(gradients, variables)

    # Module and name are what Keras writes into a saved model, so that it loads where this package is not.
    own = {"_reduce": staticmethod(reduce), "__module__": base.__module__, "__doc__": base.__doc__}
    optimizer.__class__ = type(base.__name__, (_Reducing, base), own)
    return optimizer


def load_model(filepath: Any, custom_objects: dict[str, Any] | None = None, **distributed: Any) -> keras.Model:
    """keras.models.load_model, with the model's optimizer made distributed.

    distributed: arguments of ``DistributedOptimizer``. Raises UnsupportedError where the model has no optimizer.
    """
    model = keras.models.load_model(filepath, custom_objects=custom_objects)
    if getattr(model, "optimizer", None) is None:
        raise UnsupportedError(
            f"load_model of {str(filepath)!r}: expected a compiled model, got one without an optimizer; write "
            "keras.models.load_model, then model.compile(DistributedOptimizer(...), ..., jit_compile=False)"
        )
    DistributedOptimizer(model.optimizer, **distributed)
    # Keras saves "auto", which means XLA.
    model.jit_compile = False
    return model


def _refuse_loss_scaling_outside(optimizer: Any) -> None:
    frame = sys._getframe(2)
    while frame is not None:
        # Keras's own frames alone: to read a user's local variables is to keep them alive until it returns.
        if frame.f_code.co_filename == _LOSS_SCALING and frame.f_locals.get("self", optimizer) is not optimizer:
            raise UnsupportedError(
                "model.compile under mixed_float16: expected the loss scaling inside of DistributedOptimizer, got it "
                "outside; write DistributedOptimizer(keras.optimizers.LossScaleOptimizer(optimizer), ...)"
            )
        frame = frame.f_back  # type: ignore[assignment]
