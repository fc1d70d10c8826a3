"""model.fit under Keras 3, where Horovod's own Keras support (horovod.tensorflow.keras) does not run.

    import hvd_gqsgd.tensorflow.keras as hvd_keras

    opt = hvd_keras.DistributedOptimizer(keras.optimizers.SGD(0.1), compression=GlobalQSGD)
    model.compile(opt, loss, jit_compile=False)
    model.fit(..., callbacks=[hvd_keras.BroadcastGlobalVariablesCallback(0)])

optimizer   any Keras 3 optimizer, reducing its gradients by Horovod's function for tapes; load_model
callbacks   equal variables at the start, averaged metrics

Names and arguments are Horovod's. With tf_keras, use horovod.tensorflow.keras itself.
"""

from hvd_gqsgd.tensorflow.keras.callbacks import BroadcastGlobalVariablesCallback, MetricAverageCallback
from hvd_gqsgd.tensorflow.keras.optimizer import DistributedOptimizer, load_model

__all__ = ["BroadcastGlobalVariablesCallback", "DistributedOptimizer", "MetricAverageCallback", "load_model"]
