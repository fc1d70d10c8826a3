"""The schemes that the tests of host schemes run for. Each is called with a seed."""

from __future__ import annotations

from functools import partial
from typing import Any

from hvd_gqsgd.tensorflow import DQSGD, GlobalQSGD, GradiVeQ, Marsit


def gradiveq(seed: int, **settings: Any) -> GradiVeQ:
    """One that goes through all its phases in a few steps."""
    inner = GlobalQSGD(seed=seed)
    return GradiVeQ(then=inner, sampling=inner, warm_up_steps=1, sample_steps=2, compress_steps=3, slice_numel=256, **settings)


#: With the largest relative error of a mean of Gaussian gradients that they may show.
UNBIASED = {
    "two_phase": (partial(GlobalQSGD, exchange="two_phase"), 0.03),
    "two_phase feedback": (partial(GlobalQSGD, exchange="two_phase", bits=6, error_feedback=True), 0.15),
    "exponential": (partial(GlobalQSGD, levels="exponential", norm=(2, 2), rotation=None), 0.5),
    "dqsgd": (partial(DQSGD, bits=8), 0.1),
}
HOST = {
    **{name: make for name, (make, _) in UNBIASED.items()},
    "marsit": partial(Marsit, sync_every=4),
    "gradiveq": gradiveq,
}
