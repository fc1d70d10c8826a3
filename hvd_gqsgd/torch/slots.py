"""Keeps the number of operations that a rank has started independent of timing.

A bucket's second collective can start once its first has completed, which happens at another moment on every rank.
But Horovod names the user's unnamed operations by counting handles: were ranks to differ in that count when the user
calls ``hvd.allreduce(loss)`` between backward and step, that call would never return. So second collectives start in
hooks only at *slots*, one for each bucket that completes after the first, and a slot with nothing to start takes
a *pad*, a one-element allreduce, in its place. By the end of a round every rank has started the same number of pads.
"""

from __future__ import annotations

from collections.abc import Iterable

import horovod.torch as hvd
import torch

from hvd_gqsgd.torch.exchange import RunningExchange
from hvd_gqsgd.torch.traffic import traffic


class Slots:
    """The slots of one round. ``count`` and ``name`` are the same on every rank."""

    def __init__(self, count: int, name: str, process_set: hvd.ProcessSet) -> None:
        self._count = count
        self._name = name
        self._process_set = process_set
        self._pads: list[int] = []

    def use(self, running: Iterable[RunningExchange]) -> None:
        """Start one further collective of the exchanges ``running`` if one can be, else a pad."""
        if not any(exchange.try_to_start_next() for exchange in running):
            self._pad()

    def close(self) -> None:
        """Start the pads that other ranks may have started where this one had something to start."""
        while len(self._pads) < self._count:
            self._pad()

    def wait(self) -> None:
        """Wait for all pads, after ``close`` on every rank."""
        while self._pads:
            hvd.synchronize(self._pads.pop())

    def _pad(self) -> None:
        name = f"hvd_gqsgd.{self._name}.pad.{len(self._pads)}"
        # Not int32: Horovod would fuse it with words, and copy those for it.
        pad = torch.zeros(1, dtype=torch.int64)
        self._pads.append(hvd.allreduce_async_(pad, name=name, op=hvd.Sum, process_set=self._process_set))
        traffic.sent_bytes += pad.nbytes
