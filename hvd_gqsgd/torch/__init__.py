"""The front end for horovod.torch.

from hvd_gqsgd.torch import DQSGD, GlobalQSGD, GradiVeQ, Marsit, Rule, traffic

compressor  what users pass as ``compression=``
engine      routes tensors; session: one optimizer's steps; direct: hvd.allreduce
exchange    one bucket on its way through Horovod; slots: when its collectives may start;
            plain: a tensor too small for one, before the first agreement
plan        which tensors travel together; agreement: how ranks find out that they differ
state       what is remembered from step to step, and how it is saved
calls       which Horovod operation is calling: the one file that knows Horovod's insides
operators   the kernels in PyTorch operators, for gradients on a GPU
traffic     bytes sent beside what Horovod would have sent
rates       measures what the cost model needs to know
"""

from hvd_gqsgd.schemes.rules import Rule
from hvd_gqsgd.torch.compressor import DQSGD, GlobalQSGD, GradiVeQ, Marsit
from hvd_gqsgd.torch.traffic import Traffic, traffic

__all__ = ["DQSGD", "GlobalQSGD", "GradiVeQ", "Marsit", "Rule", "Traffic", "traffic"]
