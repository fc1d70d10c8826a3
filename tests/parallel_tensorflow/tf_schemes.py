"""The schemes that the tests of host schemes run for. Each is called with a seed."""

from __future__ import annotations

from functools import partial

from hvd_gqsgd.tensorflow import GlobalQSGD

#: With the largest relative error of a mean of Gaussian gradients that they may show.
UNBIASED = {
    "two_phase": (partial(GlobalQSGD, exchange="two_phase"), 0.03),
    "two_phase feedback": (partial(GlobalQSGD, exchange="two_phase", bits=6, error_feedback=True), 0.15),
}
HOST = {name: make for name, (make, _) in UNBIASED.items()}
