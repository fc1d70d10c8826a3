"""Routes each tensor that Horovod asks to compress, and keeps what outlives a call."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, ref

import horovod.torch as hvd
import torch

from hvd_gqsgd.schemes.agreement import digest
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.torch import calls
from hvd_gqsgd.torch.buffers import DTYPE_NAMES
from hvd_gqsgd.torch.direct import DirectCalls, DirectExchange, base_name
from hvd_gqsgd.torch.pending import Pending
from hvd_gqsgd.torch.session import Session
from hvd_gqsgd.torch.state import MOST_SETTINGS, states
from hvd_gqsgd.torch.traffic import traffic

#: None: Horovod's result is the result. A dtype: cast Horovod's result. Pending: decode an exchange.
Context: TypeAlias = torch.dtype | Pending | None


#: A probe is one float32.
PROBE_BYTES = 4


class Engine:
    """Sessions by optimizer and settings; all of them end with Horovod's initialisation."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._generation: object = None
        self._sessions: WeakKeyDictionary[Any, dict[Scheme, Session | None]] = WeakKeyDictionary()
        self._direct = DirectCalls()
        self._latest: _Latest | None = None

    def compress(self, scheme: Scheme, tensor: torch.Tensor) -> tuple[torch.Tensor, Context]:
        """What Horovod is to reduce in place of ``tensor``, and the context for ``decompress``."""
        call = calls.caller(tensor, type(scheme).__name__)
        pending = self._start(scheme, tensor, call)
        if pending is None:
            return self._as_horovod_would(tensor)
        # Horovod reduces this 1 as it would have reduced the tensor: it returns as the factor that the user asked for.
        probe = torch.ones(1, dtype=torch.float32, device=tensor.device)
        traffic.sent_bytes += PROBE_BYTES
        return probe, pending

    def decompress(self, reduced: torch.Tensor, context: Context) -> torch.Tensor:
        """The tensor that Horovod's caller gets, from what Horovod made of ``compress``'s first result."""
        if context is None:
            return reduced
        if isinstance(context, torch.dtype):
            return reduced.to(context)
        return context.owner.finish(context, scale=float(reduced))

    def _start(self, scheme: Scheme, tensor: torch.Tensor, call: calls.Call) -> Pending | None:
        if tensor.dtype not in DTYPE_NAMES:
            return None
        if call.optimizer is not None:
            session = self._session(scheme, call)
            return None if session is None else session.add(str(call.name), tensor, call.first)
        if scheme.bits_of(base_name(call), tensor.shape) is None or not _shared(call.process_set):
            return None
        return DirectExchange(scheme, tensor, call, self._direct_calls(), states.of_direct(scheme)).pending

    def _direct_calls(self) -> DirectCalls:
        with self._lock:
            self._start_over_after_init()
            return self._direct

    def _session(self, scheme: Scheme, call: calls.Call) -> Session | None:
        """None where this rank has nobody to exchange with."""
        latest = self._latest
        if latest is not None and latest.is_of(scheme, call.optimizer):
            return latest.session()
        session = self._find(scheme, call)
        if session is not None:
            self._latest = _Latest(scheme, ref(call.optimizer), calls.generation(), ref(session))
        return session

    def _find(self, scheme: Scheme, call: calls.Call) -> Session | None:
        with self._lock:
            self._start_over_after_init()
            sessions = self._sessions.setdefault(call.optimizer, {})
            if scheme not in sessions:
                if len(sessions) >= MOST_SETTINGS:
                    del sessions[next(iter(sessions))]
                names = tuple(call.optimizer._parameter_names.values())
                process_set = call.process_set
                state = states.of(scheme, call.optimizer, digest(*sorted(names)))
                sessions[scheme] = Session(scheme, process_set, names, state) if _shared(process_set) else None
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


@dataclass(slots=True)
class _Latest:
    """The session that was asked for last, because the next gradient is nearly always of the same optimizer."""

    scheme: Scheme
    optimizer: ref[Any]
    generation: object
    session: ref[Session]

    def is_of(self, scheme: Scheme, optimizer: Any) -> bool:
        return self.scheme is scheme and self.optimizer() is optimizer and self.generation is calls.generation()


def _shared(process_set: hvd.ProcessSet) -> bool:
    # A rank outside of the process set has no size here; Horovod says so itself.
    return bool(process_set.included()) and process_set.size() > 1


engine = Engine()
