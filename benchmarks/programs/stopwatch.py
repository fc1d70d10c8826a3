"""Exclusive time by label: what a function takes without the labelled functions that it calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import horovod.torch as hvd
from horovod.torch import optimizer as horovod_optimizer

from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.torch import exchange, plain, slots
from hvd_gqsgd.torch.engine import engine


class Stopwatch:
    """``clock`` is perf_counter or thread_time; seconds[label] grows until ``clear``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._labels: list[str] = []
        self._since = 0.0

    def clear(self) -> None:
        self.seconds.clear()

    @contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        self._switch()
        self._labels.append(label)
        try:
            yield
        finally:
            self._switch()
            self._labels.pop()

    def label(self, label: str, owner: Any, *names: str) -> None:
        """Count every call of ``owner``'s functions ``names``."""
        for name in names:
            setattr(owner, name, self._labelled(label, getattr(owner, name)))

    def _labelled(self, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            self._switch()
            self._labels.append(label)
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._labels.pop()

        return timed

    def _switch(self) -> None:
        now = self._clock()
        if self._labels:
            self.seconds[self._labels[-1]] += now - self._since
        self._since = now


class _Horovod(ModuleType):
    """horovod.torch for our modules, so that Horovod's own optimizer keeps the unlabelled functions."""

    def __getattr__(self, name: str) -> Any:
        return getattr(hvd, name)


def label_everything(watch: Stopwatch) -> None:
    """Label what GlobalQSGD calls, in this process and from now on: python, kernels, submit and wait."""
    watch.label("python", engine, "compress", "decompress")
    library = compiled.load(compiled.library_path())
    for name in ("block_norms", "encode", "decode"):
        watch.label(name, library, f"gqsgd_{name}")
    watch.label("wait", exchange, "_wait")
    for module in (exchange, plain, slots):
        horovod = _Horovod("horovod.torch")
        watch.label("submit", horovod, "allreduce_async_", "poll")
        watch.label("wait", horovod, "synchronize")
        module.hvd = horovod
    watch.label("submit", horovod_optimizer, "allreduce_async_")
    watch.label("wait", horovod_optimizer, "synchronize")
