"""What every front end's compressor shares: Horovod takes a compressor as a class or as an instance."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from hvd_gqsgd.schemes.base import Scheme


@cache
def _defaults(cls: type[Scheme]) -> Scheme:
    return cls()


class OnClassOrInstance:
    """A method that, called on the class, acts on an instance with default settings."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Scheme | None, cls: type[Scheme]) -> Callable[..., Any]:
        return partial(self._function, _defaults(cls) if instance is None else instance)
