"""hvd.allreduce and hvd.grouped_allreduce of a tensor by itself: buckets of its own, no plan."""

from __future__ import annotations

from threading import Lock

import horovod.torch as hvd
import torch

from hvd_gqsgd import telemetry
from hvd_gqsgd.schemes.agreement import Statement
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.torch.agreement import Parties
from hvd_gqsgd.torch.calls import Call
from hvd_gqsgd.torch.exchange import RunningExchange, drain, report
from hvd_gqsgd.torch.pending import Pending
from hvd_gqsgd.torch.plan import Load, Spec, groups_of
from hvd_gqsgd.torch.state import ExchangeState
from hvd_gqsgd.torch.traffic import traffic


def base_name(call: Call) -> str:
    """What the user called the tensor."""
    return call.name or "noname"


class DirectExchange:
    """The exchange of one tensor, whose input is left alone; autograd flows through the result."""

    def __init__(
        self, scheme: Scheme, tensor: torch.Tensor, call: Call, calls: DirectCalls, state: ExchangeState
    ) -> None:
        self._scheme = scheme
        self._tensor = tensor
        self._call = call
        self._calls = calls
        self._state = state
        self._problem = scheme.misfit(call.process_set.size()) or self._unnamed()
        base = base_name(call)
        self.pending = Pending(self, Spec.of(base, tensor), tensor)
        self._wire_name = calls.open(base)
        self._step = state.step
        self._loads = [group.load() for group in groups_of(scheme, [self.pending.spec])]
        self._running = [self._start(load) for load in self._loads]
        state.step += 1

    def _start(self, load: Load) -> RunningExchange:
        bucket = load.bucket
        bucket.tensors = [part.of(self.pending.flat) for part in load.parts]
        problem = self._state.lend(load, self._scheme, lambda part: self._wire_name)
        self._problem = self._problem or problem
        traffic.dense_bytes += load.dense_bytes
        name = f"{self._wire_name}.{load.parts[0].start}"
        return RunningExchange(self._scheme, bucket, name, self._call.process_set, self._problem)

    def _unnamed(self) -> str:
        named = self._call.name is not None or not self._scheme.remembers
        return "" if named else f"allreduce {self._scheme.unnamed}"

    def finish(self, pending: Pending, scale: float) -> torch.Tensor:
        """The reduced tensor, in fresh memory."""
        spec = pending.spec
        out = torch.empty(spec.shape, dtype=spec.dtype, device=spec.device)
        flat = out.view(-1)
        parts = {r: [part.of(flat) for part in load.parts] for r, load in zip(self._running, self._loads, strict=True)}
        failed = drain(self._running, lambda running: running.decode(scale, parts[running]))
        self._calls.close(self._wire_name)
        if failed is not None:
            statement = Statement.of(self._scheme, [str(spec)], self._problem)
            operation = f"allreduce of {spec.name!r}"
            raise failed.explain(statement, Parties(self._call.process_set, self._wire_name, operation))
        if telemetry.active():
            dense_bytes = sum(load.dense_bytes for load in self._loads)
            report(f"allreduce of {spec.name!r}", self._step, self._running, dense_bytes)
        # The result may live on with its graph; what it was made in need not.
        del self._running, self._loads, self.pending
        if self._tensor.requires_grad and torch.is_grad_enabled():
            # In a list, because a tensor that comes in and goes out again would be a view.
            return _Reduced.apply(self._tensor, self, [out])
        return out

    def allreduce_again(self, gradient: torch.Tensor) -> torch.Tensor:
        """What hvd.allreduce with the same arguments makes of the result's gradient."""
        name = f"{self._wire_name}.backward"
        return hvd.allreduce(gradient.contiguous(), name=name, compression=self._scheme, **self._call.arguments)


class _Reduced(torch.autograd.Function):
    """A decoded result whose gradient is reduced as the tensor was, compressed as with Compression.fp16."""

    @staticmethod
    def forward(ctx, tensor, exchange, out):  # type: ignore[no-untyped-def]
        ctx.exchange = exchange
        return out.pop()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.exchange.allreduce_again(gradient), None, None


class DirectCalls:
    """Names of exchanges outside of an optimizer.

    Horovod pairs such calls by the name that the user gives; several under way with one name (a group, or no
    name at all) are told apart by a number, in the order of the calls, which is the same on every rank.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._under_way: set[str] = set()

    def open(self, base: str) -> str:
        """A name that no exchange under way has."""
        with self._lock:
            number = 0
            while (wire_name := f"{base}.{number}") in self._under_way:
                number += 1
            self._under_way.add(wire_name)
            return wire_name

    def close(self, wire_name: str) -> None:
        """Let ``wire_name`` be used again."""
        with self._lock:
            self._under_way.discard(wire_name)
