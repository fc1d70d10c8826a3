"""Two phases in place of a ring: the seconds they take, and the width at which they err as little.

    two phases   3 o + t k + c (B - 1) + K' / B + max(W', R') + (1 - h) min(W', R'),   R' = K' (1 - 1 / B)
                 K' = K + decode + (norms + encode) / n         each rank decodes n parcels and encodes their mean
                 W' = W + half of the norms                      those of the mean, gathered

Symbols as in model.py; alltoall and allgather together move a ring's bytes. In units of M, the largest element, a mean
of n codes in L levels has variance 1 / (12 n L^2) with dithers drawn together (maths.dither), and one more rounding
1 / (6 L^2).
"""

from __future__ import annotations

from collections.abc import Sequence

from hvd_gqsgd.costs.choices import FLOAT32_BYTES, WIDTHS, Choice, payload
from hvd_gqsgd.costs.model import beside, kernel_seconds
from hvd_gqsgd.costs.rates import Rates
from hvd_gqsgd.costs.wire import operation_seconds, payload_seconds
from hvd_gqsgd.maths import levels, quantize


def variance_in_ring(bits: int, n: int) -> float:
    """Of the mean of ``n`` ranks, in units of M^2.

    >>> variance_in_ring(8, 64) / variance_in_two_phases(8, 64) > 20
    True
    """
    return 1 / (12 * n * levels.count_levels(bits, n) ** 2)


def variance_in_two_phases(bits: int, n: int) -> float:
    """The same in two phases, taking the mean's elements to be as large as the ranks' own."""
    return (1 / (12 * n) + 1 / 6) / levels.max_lane_sum(bits) ** 2


def as_accurate(bits: int, n: int) -> int | None:
    """The narrowest width in two phases that errs no more than a ring of ``bits``; None if no width does.

    >>> [as_accurate(bits, n) for bits, n in ((8, 2), (8, 8), (10, 64), (16, 64))]
    [10, 8, 8, 16]
    """
    bound = variance_in_ring(bits, n)
    return next((width for width in WIDTHS if variance_in_two_phases(width, n) <= bound), None)


def aggregation_seconds(rates: Rates, bits: int, numels: Sequence[int], n: int) -> float:
    """Seconds to aggregate float32 gradients of ``numels`` elements among ``n`` ranks in two phases."""
    # Of what the ring sends, buckets and kernels are the same; which width serves how many ranks does not matter here.
    sent = payload(Choice.of_bits(bits), numels)
    if n == 1 or not sent.buckets:
        return 0.0
    speeds, gradient_bytes = rates.kernels[bits], sum(sent.buckets)
    kernels = kernel_seconds(rates, Choice.of_bits(bits), gradient_bytes)
    kernels += gradient_bytes * (1 / speeds.decode + (1 / speeds.norms + 1 / speeds.encode) / n)
    scheme = Choice.of_bits(bits).scheme
    assert scheme is not None
    blocks = sum(quantize.count_blocks(numel, scheme.block_size) for numel in numels if numel >= scheme.min_numel)
    network = payload_seconds(rates, n, "float32", sent.float32 + FLOAT32_BYTES * blocks / 2)
    network += payload_seconds(rates, n, "int32", sent.int32)
    own = rates.plain_tensor_s * sent.plain + rates.compressed_tensor_s * sent.compressed
    own += rates.bucket_s * (len(sent.buckets) - 1)
    alone = kernels / len(sent.buckets)
    return 3 * operation_seconds(rates, n) + own + alone + beside(kernels - alone, network, rates.overlap)


def note(rates: Rates, numels: Sequence[int], n: int, bits: int, ring_s: float) -> str | None:
    """What to say beside a ring of ``bits``, predicted to take ``ring_s``, if as many bits or fewer err less."""
    width = as_accurate(bits, n)
    if width is None or width > bits or width not in rates.kernels:
        return None
    seconds = aggregation_seconds(rates, width, numels, n)
    gain = variance_in_ring(bits, n) / variance_in_two_phases(width, n)
    code = f"compression=GlobalQSGD(bits={width}, exchange='two_phase')"
    return (
        f"In two phases {width} bits err {gain:.1f} times less than {bits} bits in a ring on {n} ranks (squared), in "
        f"{seconds:.2g} s beside {ring_s:.2g} s, but not after hvd.join: {code}."
    )
