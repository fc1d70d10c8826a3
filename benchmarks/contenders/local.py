"""Training without any exchange: what a step costs by itself."""

from __future__ import annotations

from benchmarks.contenders.base import Contender


class Local(Contender):
    """Every rank by itself."""
