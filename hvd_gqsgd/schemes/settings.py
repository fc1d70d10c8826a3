"""Settings: frozen, keyword-only, checked once, and their repr evaluates back."""

from __future__ import annotations

import difflib
import operator
from dataclasses import fields
from typing import Any

from hvd_gqsgd.errors import SettingsError


class Settings:
    """Base of dataclasses that hold settings: an unknown or unnamed argument says what to write instead."""

    def __new__(cls, *unnamed: Any, **named: Any) -> Settings:
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]  # every subclass is a dataclass
        if unnamed:
            raise SettingsError(
                f"{cls.__name__}({', '.join(map(repr, unnamed))}): expected named settings, got {len(unnamed)} "
                f"without a name; write {cls.__name__}({known[0]}={unnamed[0]!r})"
            )
        for name, value in named.items():
            if name not in known:
                # Underscores off, so that blocksize finds block_size before anything else.
                bare = {k.replace("_", ""): k for k in known}
                close = difflib.get_close_matches(name.replace("_", "").lower(), bare, n=1)
                advice = f"write {bare[close[0]]}={value!r}" if close else "leave it out"
                raise SettingsError(
                    f"{cls.__name__}({name}={value!r}): unknown setting {name!r}; "
                    f"expected one of {', '.join(known)}; {advice}"
                )
        return super().__new__(cls)

    def _require_integer(self, name: str, low: int, high: int) -> None:
        """Raise SettingsError unless setting ``name`` is an integer in [low, high]; store it as int."""
        value = getattr(self, name)
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool) or not low <= number <= high:
            nearest = min(max(int(value), low), high) if isinstance(value, (int, float)) and value == value else low
            raise SettingsError(
                f"{type(self).__name__}({name}={value!r}): expected an integer from {low} to {high}, "
                f"got {value!r}; write for instance {name}={nearest}"
            )
        object.__setattr__(self, name, number)

    def _require_one_of(self, name: str, choices: tuple[Any, ...]) -> None:
        """Raise SettingsError unless setting ``name`` is one of ``choices``."""
        value = getattr(self, name)
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            listed = ", ".join(map(repr, choices))
            raise SettingsError(
                f"{type(self).__name__}({name}={value!r}): expected one of {listed}, got {value!r}; write for instance "
                f"{name}={choices[0]!r}"
            )
