"""Gradient compression that Horovod's own allreduce can sum.

    from hvd_gqsgd.torch import GlobalQSGD          # PyTorch
    opt = hvd.DistributedOptimizer(opt, named_parameters=model.named_parameters(), compression=GlobalQSGD)

    from hvd_gqsgd.tensorflow import GlobalQSGD     # TensorFlow, Keras
    tape = hvd.DistributedGradientTape(tape, compression=GlobalQSGD)

Where things live; imports point inward only (torch|tensorflow -> schemes -> maths):

    errors        one family of exceptions
    maths         the specification, in NumPy: levels, lanes, dither, quantisation
    kernels       the specification and the compiled C++ behind one interface
    schemes       an algorithm as a generator that yields the collectives it needs
    worlds        n virtual ranks in one process, for tests
    costs         predicted seconds of aggregation, and which setting pays
    torch         the front end for horovod.torch
    tensorflow    the front end for horovod.tensorflow and Keras
    traffic       bytes sent beside what Horovod would have sent
    telemetry     error, bytes and non-finite blocks of each step, for callbacks and TensorBoard
    cli           ``hvd-gqsgd doctor``, ``hvd-gqsgd advise``

Importing this package imports no framework.
"""

__version__ = "0.1.0"
