"""The specification: pure functions on NumPy arrays. Every kernel is bit-equal to what stands here.

levels     how many levels fit, so that n codes sum inside a lane
lanes      codes packed into int32 words, whose sums are sums of codes
dither     the counter-based random bits of stochastic rounding, one rank's or all ranks' together
rotation   blocks whose elements are all about equally large
signs      one bit per element: packed, merged without bias, unpacked
exponential  levels that are powers of two, and the paper's own sum of two codes
quantize   block norms, encode and decode of one tensor; what encode leaves over for the next step
principal  slices of convolution kernels and their principal components
bit_rule   how wide a step's codes are, by the size of its gradient
floats     bfloat16 on NumPy, which has no such dtype
"""
