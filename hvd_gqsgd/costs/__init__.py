"""What aggregation costs on a network and whether compression pays: pure functions, no framework.

rates       what was measured or given about one machine and network
choices     what can be chosen (none, fp16, GlobalQSGD at a width) and what it puts on the wire
wire        seconds of one collective: ring and tree
model       seconds of aggregating a model's gradients, and of a training step
two_phases  the same for two phases in place of a ring, and where they err less
advice      which choice to make
planning    the choice for many sizes of world and link; plot: the same as a picture
machine     speeds of this machine that need no network
check       predictions beside a benchmark's measurements
"""

from hvd_gqsgd.costs.rates import KernelSpeeds, Rates

__all__ = ["KernelSpeeds", "Rates"]
