"""How many levels a world of n workers can use (design: Global-QSGD eq. of section 4; papers.md 1.2, corrected).

A code is an integer in [-L, L]. With L = (2^(bits-1) - 1) // n, the sum of n codes stays within
+-(2^(bits-1) - 1), so it never leaves its lane. The paper's 127/n without the floor can: n = 4 rounds up to
32 levels, and 4 * 32 = 128 wraps in int8.
"""

from __future__ import annotations

from hvd_gqsgd.errors import SettingsError

MIN_BITS = 2
MAX_BITS = 16


def max_lane_sum(bits: int) -> int:
    """Largest magnitude that a lane of ``bits`` bits may carry: 2^(bits-1) - 1."""
    return (1 << (bits - 1)) - 1


def count_levels(bits: int, n: int) -> int:
    """Levels L on each side of zero for ``n`` workers in lanes of ``bits`` bits.

    Raises SettingsError where not one level fits, and names the smallest ``bits`` that does.

    >>> count_levels(8, 2), count_levels(8, 127), count_levels(16, 127)
    (63, 1, 258)
    """
    levels = max_lane_sum(bits) // n
    if levels == 0:
        fits = smallest_bits(n)
        advice = f"write bits={fits} or more" if fits else "use process sets of at most 32767 ranks"
        raise SettingsError(
            f"GlobalQSGD(bits={bits}) on {n} ranks: the sum of {n} codes does not fit {bits}-bit lanes "
            f"(expected n <= {max_lane_sum(bits)}, got n = {n}); {advice}"
        )
    return levels


def smallest_bits(n: int) -> int | None:
    """Smallest ``bits`` with at least one level for ``n`` workers; None where even 16 are too few.

    >>> smallest_bits(2), smallest_bits(8), smallest_bits(40_000)
    (3, 5, None)
    """
    return next((bits for bits in range(MIN_BITS, MAX_BITS + 1) if max_lane_sum(bits) >= n), None)
