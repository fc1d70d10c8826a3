"""The schemes that the tests of host schemes run for, of either front end. Each is called with a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple


class Schemes(NamedTuple):
    """What a front end's tests take."""

    #: With the largest relative error of a mean of Gaussian gradients that they may show.
    unbiased: dict[str, tuple[Callable[..., Any], float]]
    #: All of them.
    every: dict[str, Callable[..., Any]]


#: Those that exchange with alltoall and allgather in every step but the first.
TWO_PHASE = ["two_phase", "exponential", "marsit"]


def schemes_of(front_end: ModuleType) -> Schemes:
    """front_end: hvd_gqsgd.torch or hvd_gqsgd.tensorflow."""
    qsgd = front_end.GlobalQSGD
    unbiased = {
        "two_phase": (partial(qsgd, exchange="two_phase"), 0.03),
        "two_phase feedback": (partial(qsgd, exchange="two_phase", bits=6, error_feedback=True), 0.15),
        "exponential": (partial(qsgd, levels="exponential", norm=(2, 2), rotation=None), 0.5),
        "dqsgd": (partial(front_end.DQSGD, bits=8), 0.1),
    }
    every = {
        **{name: make for name, (make, _) in unbiased.items()},
        "marsit": partial(front_end.Marsit, sync_every=4),
        "gradiveq": partial(_gradiveq, front_end),
    }
    return Schemes(unbiased, every)


def _gradiveq(front_end: ModuleType, seed: int, **settings: Any) -> Any:
    """One that goes through all its phases in a few steps."""
    inner = front_end.GlobalQSGD(seed=seed)
    phases = {"warm_up_steps": 1, "sample_steps": 2, "compress_steps": 3}
    return front_end.GradiVeQ(then=inner, sampling=inner, slice_numel=256, **phases, **settings)
