"""Algorithms as generators that yield the collectives they need; none knows a framework.

what every scheme is made of
    base          the yield protocol, the bucket that travels, what every scheme offers
    settings      frozen keyword-only settings with errors that say what to write
    blocks        settings that schemes with block norms have in common
    rules         a width for each tensor, by name and shape
    compressor    Horovod takes a class or an instance
    cutting       how tensors are cut into buckets
    agreement     what ranks tell each other to find out why they differ
    presence      who is there, for collectives that need everybody
    measure       what a finished exchange shows of its error

the schemes
    global_qsgd   Global-QSGD: uniform or exponential levels, in a ring or in two phases
        two_phase     alltoall and allgather in place of a ring
        global_norm   the paper's general norm
    dqsgd         DQ-SGD: the same with a width for each step
    marsit        Marsit: one bit per element, with global compensation
    gradiveq      GradiVeQ: kernels of convolutions as coefficients of their principal components
        subspaces     what it remembers of each tensor, and how ranks agree on it
        inner         a bucket inside a bucket, for a scheme that hands over to another
"""

from hvd_gqsgd.schemes.base import Bucket, Max, Scheme, Sum, World
from hvd_gqsgd.schemes.dqsgd import DQSGD
from hvd_gqsgd.schemes.global_qsgd import GlobalQSGD
from hvd_gqsgd.schemes.gradiveq import GradiVeQ
from hvd_gqsgd.schemes.marsit import Marsit
from hvd_gqsgd.schemes.rules import Rule

__all__ = ["DQSGD", "Bucket", "GlobalQSGD", "GradiVeQ", "Marsit", "Max", "Rule", "Scheme", "Sum", "World"]
