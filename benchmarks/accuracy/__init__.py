"""How well n workers' mean gradient comes through, by bits on the wire: ``python -m benchmarks.accuracy --help``.

gradients    what one step brings: n workers' gradients, and the tensors that they are cut into
synthetic    gradients of known laws
recorded     gradients of real models at several points of their training
contenders   ways to bring them together, each a pure function of the gradients and a random generator
ours         GlobalQSGD on a loopback world, as one of them
lines        every contender with its widths
measure      NMSE = |ghat - gbar|^2 / |gbar|^2 of each of them on each of those
dithers      correlated dither beside independent dither: its NMSE, and whether both are unbiased
block_sizes  NMSE and bits by the size of a block
tables, plots
"""
