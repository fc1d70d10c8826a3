"""The exchanges of one optimizer: rounds of tensors in agreed buckets, one round per step.

A round lives from the first ``compress`` to the last ``decompress`` of a step:

    add      (in hooks, never blocks)  takes a tensor; a bucket leaves when its last member is in
    settle   (first decompress)        Horovod has submitted every tensor by now, on every rank the same ones: what is
                                       in no bucket yet is agreed, what is incomplete leaves as it is
    finish   (each decompress)         waits for the tensor's bucket and decodes into the gradient's own memory

Every rank starts the same collectives in a round, though in any order: names decide what belongs together. That
their *number* is the same whenever the user's own code runs is the business of ``slots``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from threading import RLock

import horovod.torch as hvd
import torch

from hvd_gqsgd.schemes.agreement import Statement, digest
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.torch.agreement import Parties
from hvd_gqsgd.torch.exchange import RunningExchange
from hvd_gqsgd.torch.pending import Pending, flatten
from hvd_gqsgd.torch.plain import PlainExchange
from hvd_gqsgd.torch.plan import Group, Plan, Spec
from hvd_gqsgd.torch.slots import Slots
from hvd_gqsgd.torch.traffic import traffic


class _Round:
    """The state of one step: who has arrived, what is under way, what went wrong here.

    exchange_of: name -> the running exchange and the tensor's place in it. plain: tensors too small to compress, in
    the rounds before the settings are agreed.
    """

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.arrived: dict[str, Pending] = {}
        self.arrivals_in: Counter[Group] = Counter()
        self.running: list[RunningExchange] = []
        self.exchange_of: dict[str, tuple[RunningExchange, int]] = {}
        self.plain: dict[str, PlainExchange] = {}
        self.problem = ""
        self.settled = False
        self.unfinished = 0


class Session:
    """Exchanges for one optimizer with one set of settings, on one process set.

    names: of all the optimizer's parameters; they tell its collectives from other optimizers'.
    """

    def __init__(self, scheme: Scheme, process_set: hvd.ProcessSet, names: Sequence[str]) -> None:
        self._scheme = scheme
        self._process_set = process_set
        self._name = digest(*sorted(names))
        self._dropped_rounds = 0
        self._step = 0
        self._start_over()
        # Autograd calls the hooks of each GPU's parameters in a thread of its own.
        self._lock = RLock()

    def _start_over(self) -> None:
        self._plan = Plan(self._scheme)
        self._agreed = False
        self._round = self._new_round()

    def _new_round(self) -> _Round:
        return _Round(Slots(max(0, self._plan.groups - 1), self._wire_name("slots"), self._process_set))

    def _wire_name(self, what: str) -> str:
        # What a dropped round left in flight keeps its name for itself.
        return f"{what}.{self._name}.{self._dropped_rounds}"

    def add(self, name: str, tensor: torch.Tensor, first: bool) -> Pending | None:
        """Take ``tensor``, whose memory is overwritten with the result later; None if Horovod is to send it itself.

        first: Horovod holds no other tensor of this step.
        """
        with self._lock:
            if (first and self._round.arrived) or name in self._round.arrived:
                # The optimizer dropped the last round half way, as load_state_dict does.
                self._dropped_rounds += 1
                self._plan.drop_buffers()
                self._round = self._new_round()
            return None if self._is_horovods(name, tensor) else self._add(name, tensor)

    def finish(self, pending: Pending, scale: float) -> torch.Tensor:
        """The reduced gradient, in the memory that was added, or in contiguous memory of the same shape."""
        with self._lock:
            try:
                return self._finish(pending, scale)
            except Exception:
                # Every rank has the same error, so all of them start over.
                self._start_over()
                raise

    def _is_horovods(self, name: str, tensor: torch.Tensor) -> bool:
        # A tensor that was planned stays ours and one that was small stays Horovod's, whatever it has become on this
        # rank: the others send the same. Before the agreement everything is ours.
        if name in self._plan.specs or not self._agreed:
            return False
        return name in self._plan.small or not self._scheme.compresses(tensor.numel())

    def _add(self, name: str, tensor: torch.Tensor) -> Pending:
        now = self._round
        pending = Pending(self, Spec.of(name, tensor), flatten(tensor))
        now.arrived[name] = pending
        now.unfinished += 1
        planned = self._plan.specs.get(name)
        if planned is not None:
            if planned != pending.spec:
                now.problem = (
                    f"parameter {name!r} changed between steps: expected {planned}, got {pending.spec}; "
                    "make a new hvd.DistributedOptimizer after changing a parameter"
                )
            group = self._plan.group_of[name]
            now.arrivals_in[group] += 1
            if now.arrivals_in[group] == len(group.names):
                if now.running:
                    now.slots.use(now.running)
                self._start(group.names, self._plan)
        return pending

    def _finish(self, pending: Pending, scale: float) -> torch.Tensor:
        now = self._round
        if not now.settled:
            self._settle()
        plain = now.plain.get(pending.spec.name)
        if plain is not None:
            plain.decode(scale)
        else:
            exchange, index = now.exchange_of[pending.spec.name]
            self._drain(until=exchange)
            exchange.decode(index, pending.flat, scale)
        now.unfinished -= 1
        if not now.unfinished:
            now.slots.wait()
            self._round = self._new_round()
            self._step += 1
        return pending.flat.view(pending.spec.shape)

    def _settle(self) -> None:
        now = self._round
        plan = self._plan
        unplanned = [pending for name, pending in now.arrived.items() if name not in plan.specs]
        if unplanned:
            plan = self._agree(unplanned)
        waiting: dict[Group, set[str]] = {}
        for name in now.arrived:
            if name not in now.exchange_of and name not in now.plain:
                waiting.setdefault(plan.group_of[name], set()).add(name)
        for group, names in waiting.items():
            self._start(tuple(name for name in group.names if name in names), plan)
        now.slots.close()
        now.settled = True

    def _agree(self, unplanned: list[Pending]) -> Plan:
        """A plan that has ``unplanned`` too, in the order in which they became ready on the lowest rank present.

        It is kept if every rank was there: one that has joined knows nothing of it and will ask again.
        """
        by_name = {p.spec.name: p for p in sorted(unplanned, key=lambda pending: pending.spec.name)}
        position = {name: index for index, name in enumerate(by_name)}
        problem = self._round.problem or self._scheme.misfit(self._process_set.size())
        statement = Statement.of(self._scheme, [str(p.spec) for p in by_name.values()], problem)
        parties = Parties(self._process_set, self._name, "DistributedOptimizer, agreement on its parameters")
        present = parties.agree(statement)
        ready = [position[p.spec.name] for p in unplanned]
        names = list(by_name)
        order = [names[index] for index in parties.order_of(ready, present[0])]
        plan = self._plan.extended(by_name[name].spec for name in order)
        for name in plan.small.intersection(by_name):
            self._round.plain[name] = PlainExchange(by_name[name], self._process_set, len(present))
        if len(present) == self._process_set.size():
            self._plan = plan
            self._agreed = True
        return plan

    def _start(self, names: tuple[str, ...], plan: Plan) -> None:
        now = self._round
        bucket = plan.bucket(names)
        bucket.step = self._step
        bucket.tensors = [_payload(now.arrived[name], plan.specs[name]) for name in names]
        wire_name = self._wire_name(f"{names[0]}+{len(names) - 1}.{digest(*names)}")
        exchange = RunningExchange(self._scheme, bucket, wire_name, self._process_set, now.problem)
        now.running.append(exchange)
        now.exchange_of.update((name, (exchange, index)) for index, name in enumerate(names))
        traffic.dense_bytes += sum(plan.specs[name].dense_bytes for name in names)

    def _drain(self, until: RunningExchange) -> None:
        """Wait for ``until``; whoever has come least far goes first, so that no bucket's next collective is late."""
        running = self._round.running
        while not until.done:
            min((e for e in running if not e.done), key=lambda e: (e.collectives, e is not until)).step()
        if until.failure is not None:
            raise self._failure(until)

    def _failure(self, failed: RunningExchange) -> Exception:
        """What to raise for ``failed``, after every collective of the round has come to its end on every rank."""
        now = self._round
        for exchange in now.running:
            exchange.wait()
        for plain in now.plain.values():
            plain.wait()
        now.slots.wait()
        lines = sorted(str(pending.spec) for pending in now.arrived.values())
        statement = Statement.of(self._scheme, lines, now.problem)
        operation = f"DistributedOptimizer, exchange of {', '.join(failed.bucket.names)}"
        return failed.explain(statement, Parties(self._process_set, self._name, operation))


def _payload(pending: Pending, planned: Spec) -> torch.Tensor:
    """What this rank sends: its gradient, or zeros of the agreed kind where it came in another one."""
    if pending.spec == planned:
        return pending.flat
    return torch.zeros(planned.numel, dtype=planned.dtype, device=planned.device)
