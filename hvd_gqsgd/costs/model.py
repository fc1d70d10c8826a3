"""Predicted seconds of aggregating a model's gradients, and of a training step.

Aggregation is ``opt.synchronize()`` with every gradient ready: nothing of it hides behind the backward pass.

    none   o + t k + F(4 N)                                        o: one operation; t: a tensor's own cost; k: tensors
    fp16   o + t k + F(2 N) + 4 N / cast                           N: elements; F: payload, fused up to 128 MiB
    bits   2 o + t k + c (B - 1) + K / B                           B: buckets; c: what a further one costs
           + max(W, R) + (1 - h) min(W, R),  R = K (1 - 1 / B)     K: norms, encode and decode; h: overlap
                                                                   W: words, norms and uncompressed small tensors

A bucket's Sum follows its Max, hence two operations; those of further buckets are under way meanwhile. The first
bucket's norms and codes and the last one's decoding have nothing to hide behind: together one bucket's kernels, K / B.
The rest, R, runs beside the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hvd_gqsgd.costs.choices import FLOAT32_BYTES, FP16, Choice, payload
from hvd_gqsgd.costs.rates import Rates
from hvd_gqsgd.costs.wire import operation_seconds, payload_seconds

#: Bytes that Horovod sends as one message (HOROVOD_FUSION_THRESHOLD's default).
FUSION_BYTES = 128 << 20
#: Of forward and backward pass together, what can hide communication: the backward pass, twice the forward's work.
BACKWARD_SHARE = 2 / 3


def aggregation_seconds(rates: Rates, choice: Choice, numels: Sequence[int], n: int | None = None) -> float:
    """Seconds to aggregate float32 gradients of ``numels`` elements among ``n`` ranks (those of ``rates``)."""
    n = rates.ranks if n is None else n
    sent = payload(choice, numels)
    if n == 1:
        return 0.0
    own = rates.plain_tensor_s * sent.plain + rates.compressed_tensor_s * sent.compressed
    network = sum(_fused(rates, n, d, getattr(sent, d)) for d in ("float32", "float16", "int32"))
    operation = operation_seconds(rates, n)
    if choice == FP16:
        return operation + own + network + FLOAT32_BYTES * sum(numels) / rates.cast
    if not sent.buckets:
        return operation + own + network
    kernels = kernel_seconds(rates, choice, sum(sent.buckets))
    alone = kernels / len(sent.buckets)
    own += rates.bucket_s * (len(sent.buckets) - 1)
    return 2 * operation + own + alone + beside(kernels - alone, network, rates.overlap)


def step_seconds(rates: Rates, choice: Choice, numels: Sequence[int], compute_s: float, n: int | None = None) -> float:
    """Seconds of a step of ``compute_s`` (forward and backward pass on one rank, no communication).

    Up to ``BACKWARD_SHARE`` of it runs beside the aggregation, as far as ``rates.overlap`` lets the two share a rank.
    """
    backward_s = BACKWARD_SHARE * compute_s
    return compute_s - backward_s + beside(backward_s, aggregation_seconds(rates, choice, numels, n), rates.overlap)


def kernel_seconds(rates: Rates, choice: Choice, gradient_bytes: float) -> float:
    """Norms, encode and decode of ``gradient_bytes`` at the width of ``choice``."""
    assert choice.bits is not None
    speeds = rates.kernels[choice.bits]
    return gradient_bytes * (1 / speeds.norms + 1 / speeds.encode + 1 / speeds.decode)


def beside(one_s: float, other_s: float, overlap: float) -> float:
    """Seconds of two things at once, of which ``overlap`` of the shorter hides behind the longer.

    >>> beside(3.0, 1.0, 1.0), beside(3.0, 1.0, 0.0)
    (3.0, 4.0)
    """
    return max(one_s, other_s) + (1 - overlap) * min(one_s, other_s)


def _fused(rates: Rates, n: int, dtype: str, size_bytes: int) -> float:
    if not size_bytes:
        return 0.0
    messages = math.ceil(size_bytes / FUSION_BYTES)
    return messages * payload_seconds(rates, n, dtype, size_bytes / messages)
