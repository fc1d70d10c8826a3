"""One bucket on its way: drives a scheme's generator with Horovod's asynchronous collectives.

Nothing here starts a thread. ``try_to_start_next`` never blocks, which is what hooks may call; ``step``, ``wait`` and
``drain`` do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError

from hvd_gqsgd import telemetry
from hvd_gqsgd.errors import DisagreementError
from hvd_gqsgd.schemes.agreement import Statement
from hvd_gqsgd.schemes.base import AllGather, AllToAll, Bucket, Collective, Max, Scheme, World
from hvd_gqsgd.schemes.measure import NOTHING, Measured
from hvd_gqsgd.torch.agreement import Parties
from hvd_gqsgd.torch.buffers import host_kernels, kernels_for, to_host, written_back
from hvd_gqsgd.torch.traffic import traffic

#: Buckets whose last collective is started before the first of them is waited for: one on the wire, one that follows
#: it at once. With more of them ready, Horovod would copy them into its fusion buffer and return all of them together,
#: and nothing could be decoded meanwhile.
IN_FLIGHT = 2

#: Horovod's own wait looks once in a millisecond; at 10 Gbit/s that is a bucket's transfer.
NAP_S = 200e-6


class RunningExchange:
    """A bucket whose collectives are under way.

    name: of the collectives, the same on every rank and on no other bucket in flight.
    problem: what is wrong on this rank; it then takes part with a header that fails the check on every rank, so
        that all of them learn of it.
    collectives: how many have been started.
    failure: why it ended early, to be raised by whoever waits for it, at a point that all ranks reach.
    """

    def __init__(
        self, scheme: Scheme, bucket: Bucket, name: str, process_set: hvd.ProcessSet, problem: str = ""
    ) -> None:
        self.bucket = bucket
        self.collectives = 0
        self.failure: Exception | None = None
        self._scheme = scheme
        self._tensors = bucket.tensors
        if scheme.on_host:
            bucket.tensors = [to_host(tensor) for tensor in bucket.tensors]
            bucket.residuals = [to_host(residual) for residual in bucket.residuals]
        self._kernels = host_kernels() if scheme.on_host else kernels_for(bucket.norms.device.type)
        self.sent_bytes = 0
        self._world = World(size=process_set.size(), rank=process_set.rank())
        self._name = name
        self._process_set = process_set
        self._handle: int | None = None
        self._collective: Collective | None = None
        self._generator = scheme.collectives(bucket, self._kernels, self._world, valid=not problem)
        self._resume(None)

    @property
    def done(self) -> bool:
        return self._handle is None

    def try_to_start_next(self) -> bool:
        """Move on if the collective under way has completed; never blocks. Says whether another one was started."""
        before = self.collectives
        if self._handle is not None and hvd.poll(self._handle):
            self.step()
        return self.collectives > before

    def step(self) -> None:
        """Wait for the collective under way, then move on by one."""
        handle, self._handle = self._handle, None
        try:
            result = _wait(handle)
        except HorovodInternalError as error:
            self.failure = error
        else:
            self._resume(self._result_of(result))

    def wait(self) -> None:
        """Wait until the exchange is done."""
        while not self.done:
            self.step()

    def decode(self, scale: float, out: Sequence[torch.Tensor] | None = None) -> None:
        """Write the members of the finished exchange into ``out``, or into the tensors that they came from."""
        tensors = self._tensors if out is None else out
        if not self._scheme.on_host:
            return self._scheme.decode(self.bucket, self._kernels, self._world, tensors, scale=scale)
        with written_back(tensors) as arrays:
            self._scheme.decode(self.bucket, self._kernels, self._world, arrays, scale=scale)

    def measure(self) -> Measured:
        """What the finished exchange shows of its error; reads its buffers."""
        bucket = self.bucket
        if self.failure is not None:
            return NOTHING
        if not self._scheme.on_host:
            bucket = replace(bucket, norms=to_host(bucket.norms), words=to_host(bucket.words))
        return self._scheme.measure(bucket, self._world)

    def forget_tensors(self) -> None:
        """The bucket outlives the step; the gradients must not."""
        self._tensors = self.bucket.tensors = self.bucket.residuals = self.bucket.memory = ()

    def explain(self, statement: Statement, parties: Parties) -> Exception:
        """``failure``, or where ranks differ an exception that says in what; then every rank has to call this."""
        error = self.failure
        assert error is not None
        if isinstance(error, DisagreementError) or (
            isinstance(error, HorovodInternalError) and "Mismatched" in str(error)
        ):
            return parties.disagreement(statement)
        return error

    def _result_of(self, result: Any) -> Any:
        collective = self._collective
        if isinstance(collective, AllToAll):
            return result[0].numpy()
        return result.numpy() if isinstance(collective, AllGather) else collective.buffer if collective else None

    def _resume(self, result: Any) -> None:
        try:
            self._start(self._generator.send(result))
        except StopIteration:
            pass
        except Exception as error:
            # Whatever it is, hooks must not raise it: the other ranks would wait for what this one still has to send.
            self.failure = error

    def _start(self, collective: Collective) -> None:
        buffer = collective.buffer
        if self._scheme.on_host:
            buffer = torch.from_numpy(buffer)
        sent_bytes = collective.allreduce_bytes(self._world.size)
        traffic.sent_bytes += sent_bytes
        self.sent_bytes += sent_bytes
        who: dict[str, Any] = {"name": f"hvd_gqsgd.{self._name}.{self.collectives}", "process_set": self._process_set}
        if isinstance(collective, AllToAll):
            self._handle = hvd.alltoall_async(buffer, torch.tensor(collective.splits, dtype=torch.int32), **who)
        elif isinstance(collective, AllGather):
            self._handle = hvd.allgather_async(buffer, **who)
        else:
            op = hvd.Max if isinstance(collective, Max) else hvd.Sum
            self._handle = hvd.allreduce_async_(buffer, op=op, **who)
        self._collective = collective
        self.collectives += 1


def drain(exchanges: Iterable[RunningExchange], finished: Callable[[RunningExchange], None]) -> RunningExchange | None:
    """Bring all exchanges to their end and call ``finished`` for each that has not failed; the first that has.

    exchanges: in the same order on every rank, because each is waited for before the one after the next is moved on.
    While one bucket's words travel, the next one's are encoded and the last one's decoded.
    """
    under_way: list[RunningExchange] = []
    failed: list[RunningExchange] = []

    def end(exchange: RunningExchange) -> None:
        if exchange.failure is None:
            finished(exchange)
        else:
            failed.append(exchange)
        exchange.forget_tensors()

    for exchange in exchanges:
        first = under_way.pop(0) if len(under_way) == IN_FLIGHT else None
        if first is not None:
            first.wait()
        if exchange.collectives < 2 and not exchange.done:
            exchange.step()
        under_way.append(exchange)
        if first is not None:
            end(first)
    for exchange in under_way:
        exchange.wait()
        end(exchange)
    return failed[0] if failed else None


def _wait(handle: int | None) -> Any:
    """hvd.synchronize, with shorter naps."""
    while not hvd.poll(handle):
        time.sleep(NAP_S)
    return hvd.synchronize(handle)


def report(operation: str, step: int, exchanges: Sequence[RunningExchange], dense_bytes: int) -> None:
    """Tell telemetry's callbacks of finished exchanges."""
    measured = NOTHING
    for exchange in exchanges:
        measured = measured.plus(exchange.measure())
    sent_bytes = sum(exchange.sent_bytes for exchange in exchanges)
    counts = {"operation": operation, "step": step, "sent_bytes": sent_bytes, "dense_bytes": dense_bytes}
    telemetry.publish(telemetry.StepReport.of(measured, **counts))
