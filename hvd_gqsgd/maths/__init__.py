"""The specification: pure functions on NumPy arrays. Every kernel is bit-equal to what stands here.

levels     how many levels fit, so that n codes sum inside a lane
lanes      codes packed into int32 words, whose sums are sums of codes
dither     the counter-based random bits of stochastic rounding
quantize   block norms, encode, decode of one tensor
floats     bfloat16 on NumPy, which has no such dtype
"""
