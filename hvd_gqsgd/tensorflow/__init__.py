"""The front end for horovod.tensorflow, in eager mode and in graphs.

from hvd_gqsgd.tensorflow import DQSGD, GlobalQSGD, GradiVeQ, Marsit, Rule, traffic

compressor  what users pass as ``compression=``
engine      routes tensors to the exchange that their siblings are in
exchange    all tensors of one operation on their way, as operators of a graph
host        the same for schemes that work on NumPy arrays, in Python between operators
agreement   the gate in front of it: how ranks find out that they differ
plan        which tensors travel together; names: labels that are the same on every rank
graph       buffers, kernels and bucket of a scheme that becomes a graph
library     TensorFlow's operators around the compiled kernels (csrc/), and their count of bytes sent
state       what is remembered from step to step, for tf.train.Checkpoint
calls       which Horovod operation is calling: the one file that knows Horovod's insides
keras       model.fit under Keras 3
"""

from hvd_gqsgd.schemes.rules import Rule
from hvd_gqsgd.tensorflow.compressor import DQSGD, GlobalQSGD, GradiVeQ, Marsit
from hvd_gqsgd.tensorflow.library import traffic
from hvd_gqsgd.tensorflow.state import CompressionState
from hvd_gqsgd.traffic import Traffic

__all__ = ["DQSGD", "CompressionState", "GlobalQSGD", "GradiVeQ", "Marsit", "Rule", "Traffic", "traffic"]
