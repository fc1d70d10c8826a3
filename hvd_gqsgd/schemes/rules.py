"""Widths by tensor: which lanes an embedding, a bias or a normalisation's weight is sent in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.maths.levels import MAX_BITS, MIN_BITS
from hvd_gqsgd.schemes.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Rule(Settings):
    """Tensors that match ``name`` and ``shape`` are sent with ``bits`` bits per element.

    bits: 2 to 16, or None to send them as Horovod would.
    name: a regular expression that is found somewhere in the tensor's name; None for any name.
    shape: a length for each dimension, None for any; None for any shape.

    >>> Rule(bits=6, name="embed").covers("tok_embed.weight", (256, 64))
    True
    >>> Rule(bits=None, shape=(None,)).covers("head.weight", (10, 64))
    False
    """

    bits: int | None
    name: str | None = None
    shape: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.bits is not None:
            self._require_integer("bits", MIN_BITS, MAX_BITS)
        try:
            re.compile(self.name or "")
        except (re.error, TypeError) as error:
            raise SettingsError(
                f"Rule(name={self.name!r}): expected a regular expression, got one that does not compile ({error}); "
                "write for instance name='embed'"
            ) from error
        if self.shape is not None:
            self._require_shape()

    def covers(self, name: str, shape: Sequence[int]) -> bool:
        """Whether a tensor of this name and shape is meant."""
        if self.name is not None and re.search(self.name, name) is None:
            return False
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(w in (None, g) for w, g in zip(self.shape, shape, strict=True))

    def _require_shape(self) -> None:
        try:
            shape = tuple(self.shape or ())
        except TypeError:
            shape = (-1,)
        if isinstance(self.shape, str) or not all(d is None or (type(d) is int and d >= 0) for d in shape):
            raise SettingsError(
                f"Rule(shape={self.shape!r}): expected a length or None for each dimension, got {self.shape!r}; write "
                "for instance shape=(None,) for all vectors"
            )
        object.__setattr__(self, "shape", shape)


#: What ``bits`` may be: one width; rules in the order in which they are tried, with a width for all others at the end;
#: or rules by name.
Widths = int | Sequence["Rule | int"] | Mapping[str, "int | None"]


def as_rules(scheme: str, given: Any, otherwise: int) -> tuple[Rule | int, ...]:
    """Rules that end with a width for what none of them covers; SettingsError for what is none.

    >>> as_rules("GlobalQSGD", {"embed": 6}, 8)
    (Rule(bits=6, name='embed', shape=None), 8)
    """
    if isinstance(given, Mapping):
        given = tuple(Rule(name=name, bits=bits) for name, bits in given.items())
    try:
        rules: tuple[Any, ...] = () if isinstance(given, str) else tuple(given)
    except TypeError:
        rules = ()
    *first, last = (*rules, otherwise) if rules and isinstance(rules[-1], Rule) else rules or (None,)
    if not all(isinstance(rule, Rule) for rule in first) or type(last) is not int or not MIN_BITS <= last <= MAX_BITS:
        raise SettingsError(
            f"{scheme}(bits={given!r}): expected an integer from {MIN_BITS} to {MAX_BITS}, or rules and such an "
            f"integer at the end, got {given!r}; write for instance bits=8 or bits=(Rule(bits=6, name='embed'), 8)"
        )
    return (*first, last)


def width_of(rules: Sequence[Rule | int], name: str, shape: Sequence[int]) -> int | None:
    """What the first rule that covers a tensor says; the last one is for all others."""
    for rule in rules:
        if isinstance(rule, int):
            return rule
        if rule.covers(name, shape):
            return rule.bits
    raise AssertionError(rules)
