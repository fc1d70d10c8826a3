"""hvd.allreduce and hvd.grouped_allreduce of a tensor by itself: one bucket a call, no plan."""

from __future__ import annotations

from threading import Lock

import horovod.torch as hvd
import torch

from hvd_gqsgd.schemes.agreement import Statement
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.torch.agreement import Parties
from hvd_gqsgd.torch.calls import Call
from hvd_gqsgd.torch.exchange import RunningExchange
from hvd_gqsgd.torch.pending import Pending, flatten
from hvd_gqsgd.torch.plan import Spec, new_bucket
from hvd_gqsgd.torch.traffic import traffic


class DirectExchange:
    """The exchange of one tensor, whose input is left alone; autograd flows through the result."""

    def __init__(self, scheme: Scheme, tensor: torch.Tensor, call: Call, calls: DirectCalls) -> None:
        self._scheme = scheme
        self._tensor = tensor
        self._call = call
        self._calls = calls
        self._problem = scheme.misfit(call.process_set.size())
        base = call.name or "noname"
        self.spec = Spec.of(base, tensor)
        self.flat = flatten(tensor)
        self._wire_name, step = calls.open(base)
        bucket = new_bucket(scheme, [self.spec])
        bucket.tensors = [self.flat]
        bucket.step = step
        self._running = RunningExchange(scheme, bucket, self._wire_name, call.process_set, self._problem)
        traffic.dense_bytes += self.spec.dense_bytes

    def finish(self, pending: Pending, scale: float) -> torch.Tensor:
        """The reduced tensor, in fresh memory."""
        self._running.wait()
        self._calls.close(self._wire_name)
        if self._running.failure is not None:
            statement = Statement.of(self._scheme, [str(self.spec)], self._problem)
            operation = f"allreduce of {self.spec.name!r}"
            raise self._running.explain(statement, Parties(self._call.process_set, self._wire_name, operation))
        if self._tensor.requires_grad and torch.is_grad_enabled():
            return _Reduced.apply(self._tensor, self, scale)
        return self.decode(scale)

    def decode(self, scale: float) -> torch.Tensor:
        """The reduced tensor of a finished exchange; once, because its buffers go with it."""
        out = torch.empty(self.spec.shape, dtype=self.spec.dtype, device=self.spec.device)
        self._running.decode(0, out.view(-1), scale)
        del self._running, self.flat
        return out

    def allreduce_again(self, gradient: torch.Tensor) -> torch.Tensor:
        """What hvd.allreduce with the same arguments makes of the result's gradient."""
        name = f"{self._wire_name}.backward"
        return hvd.allreduce(gradient.contiguous(), name=name, compression=self._scheme, **self._call.arguments)


class _Reduced(torch.autograd.Function):
    """A decoded result whose gradient is reduced as the tensor was, compressed as with Compression.fp16."""

    @staticmethod
    def forward(ctx, tensor, exchange, scale):  # type: ignore[no-untyped-def]
        ctx.exchange = exchange
        return exchange.decode(scale)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.exchange.allreduce_again(gradient), None, None


class DirectCalls:
    """Names and steps of exchanges outside of an optimizer.

    Horovod pairs such calls by the name that the user gives; several under way with one name (a group, or no
    name at all) are told apart by a number, in the order of the calls, which is the same on every rank.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._calls = 0
        self._under_way: set[str] = set()

    def open(self, base: str) -> tuple[str, int]:
        """A name that no exchange under way has, and a step that no call before it had."""
        with self._lock:
            number = 0
            while (wire_name := f"{base}.{number}") in self._under_way:
                number += 1
            self._under_way.add(wire_name)
            self._calls += 1
            return wire_name, self._calls - 1

    def close(self, wire_name: str) -> None:
        """Let ``wire_name`` be used again."""
        with self._lock:
            self._under_way.discard(wire_name)
