"""What trainings are compared with: one line for each compression, whichever world it runs in."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import horovod.torch as hvd

from hvd_gqsgd.schemes import Scheme
from hvd_gqsgd.torch import DQSGD, GlobalQSGD, GradiVeQ, Marsit

#: Whatever a user may write as ``compression=``: Horovod's own, or a scheme of this package.
COMPRESSIONS: dict[str, Any] = {
    "none": hvd.Compression.none,
    "fp16": hvd.Compression.fp16,
    "gqsgd8": GlobalQSGD(bits=8),
    "gqsgd6": GlobalQSGD(bits=6),
    "gqsgd4": GlobalQSGD(bits=4),
    "gqsgd3": GlobalQSGD(bits=3),
    "gqsgd4 feedback": GlobalQSGD(bits=4, error_feedback=True),
    "gqsgd3 feedback": GlobalQSGD(bits=3, error_feedback=True),
    "gqsgd4 unrotated": GlobalQSGD(bits=4, rotation=None),
    "gqsgd8 two-phase": GlobalQSGD(bits=8, exchange="two_phase"),
    "gqsgd4 two-phase": GlobalQSGD(bits=4, exchange="two_phase"),
    "gqsgd3 two-phase": GlobalQSGD(bits=3, exchange="two_phase"),
    "exponential8": GlobalQSGD(bits=8, levels="exponential", rotation=None),
    "exponential4": GlobalQSGD(bits=4, levels="exponential", rotation=None),
    "exponential3": GlobalQSGD(bits=3, levels="exponential", rotation=None),
    "dqsgd5.4": DQSGD(bits=5.4),
    "dqsgd4": DQSGD(bits=4.0),
    "marsit100": Marsit(sync_every=100),
    "marsit100 1/3": Marsit(sync_every=100),
    "marsit10 1/3": Marsit(sync_every=10),
    # Two phases of each kind in the shortest of these trainings.
    "gradiveq": GradiVeQ(warm_up_steps=50, sample_steps=45, compress_steps=180),
}

#: Of the rate that was tuned without compression; 1 where nothing is said. docs/marsit.md has the recipe.
RATES = {"marsit100 1/3": 1 / 3, "marsit10 1/3": 1 / 3}


def seeded(compression: Any, seed: int) -> Any:
    """``compression`` with a run's seed in place of its own, if it has one."""
    if isinstance(compression, Scheme) and any(field.name == "seed" for field in fields(compression)):
        return replace(compression, seed=seed)
    return compression


def settings_of(name: str) -> str:
    """Everything that a run depends on: a repr with all settings, or Horovod's own class."""
    compression = COMPRESSIONS[name]
    return f"hvd.Compression.{name}" if isinstance(compression, type) else repr(compression)


def lane_bits(name: str) -> int | None:
    """The width of a lane, where all tensors have the same one."""
    bits = getattr(COMPRESSIONS[name], "bits", None)
    return bits if isinstance(bits, int) else None
