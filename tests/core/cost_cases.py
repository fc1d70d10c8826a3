"""Rates that make arithmetic easy, for the tests of the cost model."""

import dataclasses
import math

from hvd_gqsgd.costs.choices import WIDTHS
from hvd_gqsgd.costs.rates import KernelSpeeds, Rates

#: Nothing costs anything but the bytes on links of 100 MB/s.
IDEAL = Rates(
    source="given",
    ranks=2,
    latency_s=0.0,
    hop_s=0.0,
    bandwidth=1e8,
    reduce={"float32": math.inf, "float16": math.inf, "int32": math.inf},
    cast=1e30,
    kernels={bits: KernelSpeeds(norms=1e30, encode=1e30, decode=1e30) for bits in WIDTHS},
    plain_tensor_s=0.0,
    compressed_tensor_s=0.0,
    bucket_s=0.0,
    overlap=1.0,
    error=0.2,
    threads=1,
)
#: Every term is there.
REAL = dataclasses.replace(
    IDEAL,
    source="measured",
    latency_s=2e-3,
    hop_s=1e-4,
    reduce={"float32": 2e9, "float16": 5e8, "int32": 2e9},
    cast=4e9,
    kernels={bits: KernelSpeeds(norms=10e9, encode=5e9, decode=6e9) for bits in WIDTHS},
    plain_tensor_s=2e-5,
    compressed_tensor_s=1e-4,
    bucket_s=1e-3,
    overlap=0.5,
)
