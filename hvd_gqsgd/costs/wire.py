"""Seconds of one collective among n ranks.

With a seconds per message (hop), b bytes per second of a link, g bytes per second of adding, S bytes:

    ring   T = 2 (n - 1) a + 2 (n - 1) / n S / b + (n - 1) / n S / g
    tree   T = 2 log2(n) a + 2 log2(n) S / b + log2(n) S / g        Global-QSGD, arXiv 2305.18627, performance model

MPI and Gloo choose by size; so does this model, which takes the shorter of the two.
"""

from __future__ import annotations

import math

from hvd_gqsgd.costs.rates import SMALL_COLLECTIVES, Rates


def operation_seconds(rates: Rates, n: int) -> float:
    """One small operation of Horovod's: cycle, negotiation and a tree of messages, without its payload."""
    further_rounds = 2 * (math.log2(n) - math.log2(rates.ranks))
    return max(0.0, rates.latency_s + SMALL_COLLECTIVES * further_rounds * rates.hop_s)


def payload_seconds(rates: Rates, n: int, dtype: str, size_bytes: float) -> float:
    """What ``size_bytes`` of ``dtype`` add to ``operation_seconds``, which already has the messages of one tree."""
    if n == 1 or not size_bytes:
        return 0.0
    per_byte = 2 / rates.bandwidth + 1 / rates.reduce[dtype]
    tree_rounds = math.log2(n)
    ring = 2 * (n - 1 - tree_rounds) * rates.hop_s + (n - 1) / n * size_bytes * per_byte
    return min(ring, tree_rounds * size_bytes * per_byte)
