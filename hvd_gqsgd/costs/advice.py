"""Which choice to make, from predicted seconds and the levels that remain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hvd_gqsgd.costs import two_phases
from hvd_gqsgd.costs.choices import FP16, NONE, Choice, choices, payload
from hvd_gqsgd.costs.model import aggregation_seconds
from hvd_gqsgd.costs.rates import Rates

#: Fewer levels than this on each side of zero, and rounding is loud: the error of the mean is up to M / (2 L sqrt(n)).
FEWEST_LEVELS = 7
#: Of two lossy choices the lossier one is recommended where it is this many times faster; widths below 8 bits, where
#: they are so much faster than 8 bits. Errors about the network are common to both, so these are not the model's.
LOSSIER_GAIN = 1.2
NARROWER_GAIN = 1.5
USUAL_BITS = 8
#: What is saved has to be worth this many small operations: exchanges of 10 to 20 ms were mispredicted by up to eight
#: (benchmarks/results, loopback).
OPERATIONS_SAVED = 8


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One row: what a choice sends and takes. ``gain``: seconds without compression, over ``seconds``."""

    choice: Choice
    levels: int | None
    wire_bytes: float
    seconds: float
    gain: float

    @property
    def bits(self) -> int | None:
        return self.choice.bits

    @property
    def levels_suffice(self) -> bool:
        return self.levels is None or self.levels >= FEWEST_LEVELS


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Every choice's prediction for ``ranks``, the recommended one, why, and what to mind."""

    ranks: int
    predictions: tuple[Prediction, ...]
    best: Prediction
    sentence: str
    warnings: tuple[str, ...] = ()


def predictions(rates: Rates, numels: Sequence[int], n: int) -> tuple[Prediction, ...]:
    """What each choice that works for ``n`` ranks takes; the first is "none"."""
    dense_s = aggregation_seconds(rates, NONE, numels, n)
    rows = []
    for choice in choices(n):
        seconds = aggregation_seconds(rates, choice, numels, n)
        rows.append(
            Prediction(
                choice=choice,
                levels=choice.levels(n),
                # Sent by one rank in a ring.
                wire_bytes=2 * (n - 1) / n * payload(choice, numels).size_bytes,
                seconds=seconds,
                gain=dense_s / seconds if seconds else 1.0,
            )
        )
    return tuple(rows)


def advise(rates: Rates, numels: Sequence[int], n: int | None = None) -> Advice:
    """The recommended choice for ``n`` ranks (those of ``rates``).

    From the most accurate choice to the least: none, fp16, the narrowest of 8 bits and more that keeps
    ``FEWEST_LEVELS`` levels, and narrower widths that keep them. The first that compresses has to gain more than the
    model errs, in proportion and in ``OPERATIONS_SAVED``; each further one ``LOSSIER_GAIN``, widths below 8 bits
    ``NARROWER_GAIN`` over 8 bits.
    """
    n = rates.ranks if n is None else n
    rows = predictions(rates, numels, n)
    usual = next((row for row in reversed(rows) if (row.bits or 0) >= USUAL_BITS and row.levels_suffice), rows[0])
    best = rows[0]
    for row in rows[1:]:
        wide = row.bits is not None and usual.bits is not None and row.bits > usual.bits
        narrow = row.bits is not None and row.bits < USUAL_BITS
        needed = 1 + rates.error if best is rows[0] else LOSSIER_GAIN
        saved_s = rows[0].seconds - row.seconds
        if wide or not row.levels_suffice or (narrow and usual.seconds <= NARROWER_GAIN * row.seconds):
            continue
        if best.seconds > needed * row.seconds and saved_s > OPERATIONS_SAVED * rates.latency_s:
            best = row
    warnings = _warnings(rows, n)
    if best.bits is not None:
        warnings += filter(None, [two_phases.note(rates, numels, n, best.bits, best.seconds)])
    return Advice(ranks=n, predictions=rows, best=best, sentence=_sentence(rates, rows, best), warnings=tuple(warnings))


def _sentence(rates: Rates, rows: Sequence[Prediction], best: Prediction) -> str:
    if best.choice == NONE:
        fastest = max(rows[1:], key=lambda row: (row.levels_suffice, row.gain))
        return (
            f"Do not compress: the fastest setting ({fastest.choice.name}) is predicted to gain {fastest.gain:.2f} x "
            f"or {1e3 * (rows[0].seconds - fastest.seconds):.1f} ms, and predictions err by {rates.error:.0%} and "
            f"{1e3 * OPERATIONS_SAVED * rates.latency_s:.1f} ms" + _below_levels(fastest)
        )
    name = "Horovod's fp16" if best.choice == FP16 else f"GlobalQSGD with {best.choice.name}"
    return f"Use {name}: aggregation is predicted to take {best.gain:.1f} x less time (+-{rates.error:.0%})."


def _below_levels(row: Prediction) -> str:
    return "." if row.levels_suffice else f"; it also has too few levels (L = {row.levels})."


def _warnings(rows: Sequence[Prediction], n: int) -> list[str]:
    noisy = [row for row in rows if not row.levels_suffice]
    enough = [row.choice.name for row in rows if row.bits is not None and row.levels_suffice]
    if not noisy:
        return []
    least = f"{enough[-1]} keep at least {FEWEST_LEVELS}" if enough else f"no width keeps {FEWEST_LEVELS}"
    return [
        f"{', '.join(row.choice.name for row in noisy)}: L = {', '.join(str(row.levels) for row in noisy)} on {n} "
        f"ranks; so few levels make noisy gradients, {least}."
    ]
