"""hvd.allreduce and hvd.grouped_allreduce of a tensor by itself: one bucket a call, no plan."""

from __future__ import annotations

from collections import Counter
from threading import Lock

import horovod.torch as hvd
import torch

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.schemes.agreement import Statement
from hvd_gqsgd.schemes.base import Scheme
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
        self._problem = ""
        try:
            scheme.check_world(call.process_set.size())
        except SettingsError as error:
            self._problem = str(error)
        base = call.name or "noname"
        self.pending = Pending(self, Spec.of(base, tensor), flatten(tensor))
        self._wire_name, step = calls.open(base)
        bucket = new_bucket(scheme, [self.pending.spec])
        bucket.tensors = [self.pending.flat]
        bucket.step = step
        self._running = RunningExchange(scheme, bucket, self._wire_name, call.process_set, self._problem)
        traffic.dense_bytes += self.pending.spec.dense_bytes

    def finish(self, pending: Pending, scale: float) -> torch.Tensor:
        """The reduced tensor, in fresh memory."""
        spec = pending.spec
        self._running.wait()
        self._calls.close(self._wire_name)
        if self._running.failure is not None:
            statement = Statement.of(self._scheme, [str(spec)], self._problem)
            raise self._running.explain(statement, f"allreduce of {spec.name!r}")
        out = torch.empty(spec.shape, dtype=spec.dtype, device=spec.device)
        self._running.decode(0, out.view(-1), scale)
        if self._tensor.requires_grad and torch.is_grad_enabled():
            return _Reduced.apply(self._tensor, out, self._scheme, self._call)
        return out


class _Reduced(torch.autograd.Function):
    """Gives ``out`` the gradient that hvd.allreduce with the same arguments would give its input."""

    @staticmethod
    def forward(ctx, tensor, out, compressor, call):  # type: ignore[no-untyped-def]
        ctx.compressor, ctx.call = compressor, call
        return out

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        # Without a name, as Horovod's own backward pass, but compressed, as with Compression.fp16.
        reduced = hvd.allreduce(gradient.contiguous(), compression=ctx.compressor, **ctx.call.arguments)
        return reduced, None, None, None


class DirectCalls:
    """Names and steps of exchanges outside of an optimizer.

    Horovod pairs such calls by the name that the user gives; several under way with one name (a group, or no
    name at all) are told apart by a number, in the order of the calls, which is the same on every rank.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._steps: Counter[str] = Counter()
        self._under_way: set[str] = set()

    def open(self, base: str) -> tuple[str, int]:
        """A name that no exchange under way has, and how often it was used before."""
        with self._lock:
            number = 0
            while (wire_name := f"{base}.{number}") in self._under_way:
                number += 1
            self._under_way.add(wire_name)
            self._steps[wire_name] += 1
            return wire_name, self._steps[wire_name] - 1

    def close(self, wire_name: str) -> None:
        """Let ``wire_name`` be used again."""
        with self._lock:
            self._under_way.discard(wire_name)
