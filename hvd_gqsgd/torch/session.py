"""The exchanges of one optimizer: rounds of tensors in agreed buckets, one round per step.

A round lives from the first ``compress`` to the last ``decompress`` of a step:

    add      (in hooks, never blocks)  takes a tensor; a bucket leaves when its last member is in
    settle   (first decompress)        Horovod has submitted every tensor by now, on every rank the same ones: what is
                                       in no bucket yet is agreed, what is incomplete leaves as it is, and every
                                       bucket is waited for and decoded into the gradients' own memory
    finish   (each decompress)         hands a gradient back

Every rank starts the same collectives in a round, though in any order: names decide what belongs together. That
their *number* is the same whenever the user's own code runs is the business of ``slots``.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock

import horovod.torch as hvd
import torch

from hvd_gqsgd import telemetry
from hvd_gqsgd.schemes.agreement import Statement, digest
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.torch.agreement import Parties
from hvd_gqsgd.torch.exchange import RunningExchange, drain, report
from hvd_gqsgd.torch.pending import Pending
from hvd_gqsgd.torch.plain import PlainExchange
from hvd_gqsgd.torch.plan import Group, Load, Part, Plan, Spec
from hvd_gqsgd.torch.slots import Slots
from hvd_gqsgd.torch.state import ExchangeState
from hvd_gqsgd.torch.traffic import traffic


class _Round:
    """The state of one step: who has arrived, what is under way, what went wrong here.

    missing: tensors that have not arrived, for each of the plan's groups. exchanges: by index of the group. plain:
    tensors too small to compress, in the rounds before the settings are agreed.
    """

    def __init__(self, plan: Plan, slots: Slots) -> None:
        self.slots = slots
        self.missing = [len(group.names) for group in plan.groups]
        self.arrived: dict[str, Pending] = {}
        self.exchanges: dict[int, RunningExchange] = {}
        self.plain: dict[str, PlainExchange] = {}
        self.problem = ""
        self.scale: float | None = None
        self.unfinished = 0
        self.dense_bytes = 0


class Session:
    """Exchanges for one optimizer with one set of settings, on one process set.

    names: of all the optimizer's parameters; they tell its collectives from other optimizers'. state: what it goes on
    from, and keeps up to date.
    """

    def __init__(self, scheme: Scheme, process_set: hvd.ProcessSet, names: Sequence[str], state: ExchangeState) -> None:
        self._scheme = scheme
        self._process_set = process_set
        self._name = digest(*sorted(names))
        self._dropped_rounds = 0
        self._state = state
        self._start_over()
        # Autograd calls the hooks of each GPU's parameters in a thread of its own.
        self._lock = RLock()

    def _start_over(self) -> None:
        self._plan = Plan(self._scheme)
        self._agreed = False
        self._round = self._new_round()

    def _new_round(self) -> _Round:
        slots = Slots(max(0, len(self._plan.groups) - 1), self._wire_name("slots"), self._process_set)
        return _Round(self._plan, slots)

    def _wire_name(self, what: str) -> str:
        # What a dropped round left in flight keeps its name for itself.
        return f"{what}.{self._name}.{self._dropped_rounds}"

    def add(self, name: str, tensor: torch.Tensor, first: bool) -> Pending | None:
        """Take ``tensor``, whose memory is overwritten with the result later; None if Horovod is to send it itself.

        first: Horovod holds no other tensor of this step.
        """
        with self._lock:
            arrived = self._round.arrived
            if (first and arrived) or name in arrived:
                # The optimizer dropped the last round half way, as load_state_dict does.
                self._dropped_rounds += 1
                self._plan.drop_buffers()
                self._round = self._new_round()
            planned = self._plan.specs.get(name)
            if planned is not None:
                return self._add_planned(planned, tensor)
            # A tensor that was planned stays ours and one that was small stays Horovod's, whatever it has become on
            # this rank: the others send the same. Before the agreement everything is ours.
            if self._agreed and (name in self._plan.small or self._scheme.bits_of(name, tensor.shape) is None):
                return None
            return self._take(Spec.of(name, tensor), tensor)

    def finish(self, pending: Pending, scale: float) -> torch.Tensor:
        """The reduced gradient, in the memory that was added, or in contiguous memory of the same shape."""
        with self._lock:
            try:
                return self._finish(pending, scale)
            except Exception:
                # Every rank has the same error, so all of them start over.
                self._start_over()
                raise

    def _take(self, spec: Spec, tensor: torch.Tensor) -> Pending:
        pending = Pending(self, spec, tensor)
        self._round.arrived[spec.name] = pending
        self._round.unfinished += 1
        return pending

    def _add_planned(self, planned: Spec, tensor: torch.Tensor) -> Pending:
        now = self._round
        if planned.describes(tensor):
            pending = self._take(planned, tensor)
        else:
            pending = self._take(Spec.of(planned.name, tensor), tensor)
            now.problem = (
                f"parameter {planned.name!r} changed between steps: expected {planned}, got {pending.spec}; "
                "make a new hvd.DistributedOptimizer after changing a parameter"
            )
        for group in self._plan.groups_of[planned.name]:
            now.missing[group.index] -= 1
            if not now.missing[group.index]:
                if now.exchanges:
                    now.slots.use(now.exchanges.values())
                self._start(group, group.load())
        return pending

    def _finish(self, pending: Pending, scale: float) -> torch.Tensor:
        now = self._round
        if now.scale is None:
            now.scale = scale
            self._settle(scale)
        # One optimizer has one op and one pair of factors; with groups, Horovod leaves the factors out everywhere.
        assert now.scale == scale, (now.scale, scale)
        plain = now.plain.get(pending.spec.name)
        if plain is not None:
            plain.decode(scale)
        now.unfinished -= 1
        if not now.unfinished:
            self._round = self._new_round()
            self._state.step += 1
        return pending.result()

    def _settle(self, scale: float) -> None:
        now = self._round
        plan = self._plan
        unplanned = [pending for name, pending in now.arrived.items() if name not in plan.specs]
        if unplanned:
            plan = self._agree(unplanned)
        waiting = [g for g in plan.groups if g.index not in now.exchanges]
        for group in waiting:
            names = tuple(name for name in group.names if name in now.arrived)
            if names:
                self._start(group, group.load() if names == group.names else group.partial_load(names))
        now.slots.close()
        exchanges = [now.exchanges[index] for index in sorted(now.exchanges)]
        failed = drain(exchanges, lambda exchange: exchange.decode(scale))
        now.slots.wait()
        if failed is not None:
            raise self._failure(failed)
        if telemetry.active():
            report("DistributedOptimizer", self._state.step, exchanges, now.dense_bytes)

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

    def _start(self, group: Group, load: Load) -> None:
        now = self._round
        bucket = load.bucket
        bucket.tensors = [_payload(now.arrived[part.spec.name], part) for part in load.parts]
        problem = self._state.lend(load, self._scheme, lambda part: part.spec.name)
        now.problem = now.problem or problem
        name = self._wire_name(load.label)
        now.exchanges[group.index] = RunningExchange(self._scheme, bucket, name, self._process_set, now.problem)
        traffic.dense_bytes += load.dense_bytes
        now.dense_bytes += load.dense_bytes

    def _failure(self, failed: RunningExchange) -> Exception:
        """What to raise for ``failed``, after every collective of the round has come to its end on every rank."""
        now = self._round
        for plain in now.plain.values():
            plain.wait()
        lines = sorted(str(pending.spec) for pending in now.arrived.values())
        statement = Statement.of(self._scheme, lines, now.problem)
        operation = f"DistributedOptimizer, exchange of {', '.join(failed.bucket.names)}"
        return failed.explain(statement, Parties(self._process_set, self._name, operation))


def _payload(pending: Pending, part: Part) -> torch.Tensor:
    """What this rank sends: its gradient, or zeros of the agreed kind where it came in another one."""
    if pending.spec is part.spec:
        return part.of(pending.flat)
    return torch.zeros(part.numel, dtype=part.spec.dtype, device=part.spec.device)
