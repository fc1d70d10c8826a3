"""Routes each tensor that Horovod asks to compress, and keeps what outlives a call."""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch

from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.torch import calls
from hvd_gqsgd.torch.buffers import DTYPE_NAMES
from hvd_gqsgd.torch.direct import DirectCalls, DirectExchange
from hvd_gqsgd.torch.pending import Pending
from hvd_gqsgd.torch.session import Session
from hvd_gqsgd.torch.traffic import traffic

#: None: Horovod's result is the result. A dtype: cast Horovod's result. Pending: decode an exchange.
Context: TypeAlias = torch.dtype | Pending | None


#: Sessions kept for one optimizer, for settings that alternate; beyond that the oldest goes.
MOST_SETTINGS = 8


class Engine:
    """Sessions by optimizer and settings; all of them end with Horovod's initialisation."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._generation: object = None
        self._sessions: WeakKeyDictionary[Any, dict[Scheme, Session]] = WeakKeyDictionary()
        self._direct = DirectCalls()

    def compress(self, scheme: Scheme, tensor: torch.Tensor) -> tuple[torch.Tensor, Context]:
        """What Horovod is to reduce in place of ``tensor``, and the context for ``decompress``."""
        call = calls.caller(tensor, type(scheme).__name__)
        pending = self._start(scheme, tensor, call)
        if pending is None:
            return self._as_horovod_would(tensor)
        # Horovod reduces this 1 as it would have reduced the tensor: it returns as the factor that the user asked for.
        probe = torch.ones(1, dtype=torch.float32, device=tensor.device)
        traffic.sent_bytes += probe.nbytes
        return probe, pending

    def decompress(self, reduced: torch.Tensor, context: Context) -> torch.Tensor:
        """The tensor that Horovod's caller gets, from what Horovod made of ``compress``'s first result."""
        if context is None:
            return reduced
        if isinstance(context, torch.dtype):
            return reduced.to(context)
        return context.owner.finish(context, scale=float(reduced))

    def _start(self, scheme: Scheme, tensor: torch.Tensor, call: calls.Call) -> Pending | None:
        # A rank outside of the process set has no size here; Horovod says so itself.
        if tensor.dtype not in DTYPE_NAMES or not call.process_set.included() or call.process_set.size() == 1:
            return None
        if call.optimizer is not None:
            return self._session(scheme, call).add(str(call.name), tensor, call.first)
        if not scheme.compresses(tensor.numel()):
            return None
        exchange = DirectExchange(scheme, tensor, call, self._direct_calls())
        return Pending(exchange, exchange.spec, exchange.flat)

    def _direct_calls(self) -> DirectCalls:
        with self._lock:
            self._start_over_after_init()
            return self._direct

    def _session(self, scheme: Scheme, call: calls.Call) -> Session:
        with self._lock:
            self._start_over_after_init()
            sessions = self._sessions.setdefault(call.optimizer, {})
            if scheme not in sessions:
                if len(sessions) >= MOST_SETTINGS:
                    del sessions[next(iter(sessions))]
                names = call.optimizer._parameter_names.values()
                sessions[scheme] = Session(scheme, call.process_set, tuple(names))
            return sessions[scheme]

    def _start_over_after_init(self) -> None:
        if self._generation is not calls.generation():
            self._generation = calls.generation()
            self._sessions.clear()
            self._direct = DirectCalls()

    @staticmethod
    def _as_horovod_would(tensor: torch.Tensor) -> tuple[torch.Tensor, Context]:
        # Horovod has no bfloat16 reduction.
        sent, context = (tensor.float(), tensor.dtype) if tensor.dtype == torch.bfloat16 else (tensor, None)
        traffic.dense_bytes += tensor.nbytes
        traffic.sent_bytes += sent.nbytes
        return sent, context


engine = Engine()
