"""Algorithms as generators that yield the collectives they need; none knows a framework.

base          the yield protocol, the bucket that travels, what every scheme offers
settings      frozen keyword-only settings with errors that say what to write
compressor    Horovod takes a class or an instance
cutting       how tensors are cut into buckets
agreement     what ranks tell each other to find out why they differ
blocks        settings that schemes with block norms have in common
global_qsgd   Global-QSGD with standard dithering
dqsgd         DQ-SGD: the same with a width for each step
marsit        Marsit: one bit per element, with global compensation
gradiveq      GradiVeQ: kernels of convolutions as coefficients of their principal components
subspaces     what GradiVeQ remembers of each tensor, and how ranks agree on it
inner         a bucket inside a bucket, for a scheme that hands over to another
measure       what a finished exchange shows of its error
rules         a width for each tensor, by name and shape
"""

from hvd_gqsgd.schemes.base import Bucket, Max, Scheme, Sum, World
from hvd_gqsgd.schemes.dqsgd import DQSGD
from hvd_gqsgd.schemes.global_qsgd import GlobalQSGD
from hvd_gqsgd.schemes.gradiveq import GradiVeQ
from hvd_gqsgd.schemes.marsit import Marsit
from hvd_gqsgd.schemes.rules import Rule

__all__ = ["DQSGD", "Bucket", "GlobalQSGD", "GradiVeQ", "Marsit", "Max", "Rule", "Scheme", "Sum", "World"]
