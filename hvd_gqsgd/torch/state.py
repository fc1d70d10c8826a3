"""What compression remembers from step to step, and how it is saved.

A state belongs to one optimizer and one set of settings, and outlives Horovod's initialisation: an elastic reset keeps
it. What is left over of gradients is each rank's own, so every rank saves and loads its own file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.schemes import cutting
from hvd_gqsgd.schemes.base import Scheme
from hvd_gqsgd.torch.plan import Load, Part

#: States kept for one optimizer, for settings that alternate; beyond that the oldest goes.
MOST_SETTINGS = 8


@dataclass
class ExchangeState:
    """What one optimizer's exchanges remember.

    step: of the next exchange, the part of the dither's key that makes it fresh. residuals: by tensor, flat float32.
    memories: of schemes on the host, by part of a tensor: its elements, and arrays by name.
    """

    step: int = 0
    residuals: dict[str, torch.Tensor] = field(default_factory=dict)
    memories: dict[str, tuple[int, dict[str, np.ndarray]]] = field(default_factory=dict)

    def residual_of(self, name: str, numel: int, device: torch.device) -> tuple[torch.Tensor, str]:
        """What is left over of a tensor, zeros at first; float32 (numel,), to be written to. And what is wrong, if any.

        Nothing is raised, because the other ranks have to be told: where a tensor of another size was loaded, zeros
        that nobody keeps take part in an exchange that fails everywhere.
        """
        kept = self.residuals.get(name)
        if kept is None:
            kept = self.residuals[name] = torch.zeros(numel, dtype=torch.float32, device=device)
        elif kept.numel() != numel:
            return torch.zeros(numel, dtype=torch.float32, device=device), (
                f"compression state of {name!r}: expected {numel} elements left over, got {kept.numel()}; load the "
                "state_dict() of this model's own compression"
            )
        elif kept.device != device:
            kept = self.residuals[name] = kept.to(device)
        return kept, ""

    def memory_of(self, label: str, numel: int) -> tuple[dict[str, np.ndarray], str]:
        """What a scheme on the host remembers of a part, nothing at first. And what is wrong, as ``residual_of``."""
        kept_numel, kept = self.memories.setdefault(label, (numel, {}))
        if kept_numel == numel:
            return kept, ""
        return {}, (
            f"compression state of {label!r}: expected that of {numel} elements, got of {kept_numel}; load the "
            "state_dict() of this model's own compression"
        )

    def lend(self, load: Load, scheme: Scheme, name_of: Callable[[Part], str]) -> str:
        """Put what is remembered of the parts of ``load`` into its bucket; says what is wrong, as ``residual_of``.

        name_of: what a part's tensor is remembered as.
        """
        bucket, problems = load.bucket, [""]
        bucket.step = self.step
        if scheme.keeps_residuals:
            bucket.residuals = []
            for part in load.parts:
                device = torch.device("cpu") if scheme.on_host else part.spec.device
                kept, problem = self.residual_of(name_of(part), part.spec.numel, device)
                bucket.residuals.append(part.of(kept))
                problems.append(problem)
        if scheme.on_host:
            bucket.memory = []
            for part in load.parts:
                memory, problem = self.memory_of(cutting.label_of(name_of(part), part.start), part.numel)
                bucket.memory.append(memory)
                problems.append(problem)
        return next(filter(None, problems), "")

    def to_dict(self) -> dict[str, Any]:
        memories = {
            label: {"numel": numel, "arrays": {name: torch.tensor(array) for name, array in arrays.items()}}
            for label, (numel, arrays) in self.memories.items()
        }
        residuals = {name: kept.clone() for name, kept in self.residuals.items()}
        return {"step": self.step, "residuals": residuals, "memories": memories}

    def load(self, saved: Mapping[str, Any]) -> None:
        self.step = int(saved["step"])
        self.residuals = {name: kept.clone() for name, kept in saved["residuals"].items()}
        self.memories = {
            label: (entry["numel"], {name: array.clone().numpy() for name, array in entry["arrays"].items()})
            for label, entry in saved.get("memories", {}).items()
        }


class States:
    """All states of this process.

    Optimizers are told apart by the names of their parameters, and with equal names by the order in which they stepped
    first, because that is what a program that starts again has in common with the one that saved.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_optimizer: WeakKeyDictionary[Any, dict[Scheme, tuple[str, ExchangeState]]] = WeakKeyDictionary()
        self._direct: dict[Scheme, ExchangeState] = {}
        self._loaded: dict[Scheme, list[tuple[str, Mapping[str, Any]]]] = {}

    def of(self, scheme: Scheme, optimizer: Any, names: str) -> ExchangeState:
        """The state of an optimizer; ``names`` stands for those of its parameters."""
        with self._lock:
            states = self._by_optimizer.setdefault(optimizer, {})
            if scheme not in states:
                if len(states) >= MOST_SETTINGS:
                    del states[next(iter(states))]
                state = ExchangeState()
                waiting = self._loaded.get(scheme, [])
                for entry in waiting:
                    if entry[0] == names:
                        state.load(entry[1])
                        waiting.remove(entry)
                        break
                states[scheme] = names, state
            return states[scheme][1]

    def of_direct(self, scheme: Scheme) -> ExchangeState:
        """The state of hvd.allreduce and hvd.grouped_allreduce."""
        with self._lock:
            return self._direct.setdefault(scheme, ExchangeState())

    def to_dict(self, scheme: Scheme) -> dict[str, Any]:
        """Everything that exchanges with these settings remember, in tensors, numbers and strings."""
        with self._lock:
            states = [states[scheme] for states in self._by_optimizer.values() if scheme in states]
            waiting = [{"parameters": names, **saved} for names, saved in self._loaded.get(scheme, [])]
            optimizers = [{"parameters": names, **state.to_dict()} for names, state in states]
            direct = self._direct.get(scheme, ExchangeState())
            return {"settings": repr(scheme), "optimizers": optimizers + waiting, "direct": direct.to_dict()}

    def load(self, scheme: Scheme, saved: Mapping[str, Any]) -> None:
        """Go on from what ``to_dict`` gave: optimizers that have stepped at once, others with their first step."""
        settings = saved.get("settings")
        if settings != repr(scheme):
            raise SettingsError(
                f"load_state_dict of {type(scheme).__name__}: expected the state of {scheme!r}, got that of "
                f"{settings or 'something else'}; write compression={settings or scheme!r}"
            )
        with self._lock:
            waiting = [(entry["parameters"], entry) for entry in saved["optimizers"]]
            for states in self._by_optimizer.values():
                if scheme in states:
                    names, state = states[scheme]
                    entry = next((e for e in waiting if e[0] == names), None)
                    if entry is not None:
                        state.load(entry[1])
                        waiting.remove(entry)
            self._loaded[scheme] = waiting
            self._direct.setdefault(scheme, ExchangeState()).load(saved["direct"])


states = States()
