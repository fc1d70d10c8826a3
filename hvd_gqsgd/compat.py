"""Which versions this package was tested with, and the one gate in front of Horovod.

The front ends rely on how Horovod's optimizer calls its compressor, which Horovod does not promise to keep.
"""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass

from hvd_gqsgd.errors import IncompatibleHorovodError

ALLOW_UNTESTED = "HVD_GQSGD_ALLOW_UNTESTED"

Version = tuple[int, ...]


@dataclass(frozen=True)
class Tested:
    """The versions v with lowest <= v < below."""

    lowest: Version
    below: Version

    def __str__(self) -> str:
        return f">={_join(self.lowest)},<{_join(self.below)}"

    def __contains__(self, version: object) -> bool:
        numbers = _numbers(str(version))
        return numbers is not None and self.lowest <= numbers < self.below

    def is_under(self, version: str) -> bool:
        """Whether ``version`` is older than what was tested; one without numbers is not."""
        numbers = _numbers(version)
        return numbers is not None and numbers < self.lowest


HOROVOD = Tested((0, 28, 1), (0, 29))
#: The release to name where a message says what to install.
HOROVOD_TESTED = ".".join(map(str, HOROVOD.lowest))
FRAMEWORKS = {"torch": Tested((2, 13), (2, 14)), "tensorflow": Tested((2, 15, 1), (2, 21))}


def check_horovod(version: str) -> None:
    """Raise when Horovod ``version`` is not one that this package was tested with.

    Newer ones only warn when the environment variable HVD_GQSGD_ALLOW_UNTESTED is 1.

    Raises:
        IncompatibleHorovodError: with the range expected, the version got, and what to do.
    """
    if version in HOROVOD:
        return
    message = f"hvd_gqsgd with Horovod: expected {HOROVOD}, got {version}"
    remedy = f"install Horovod {HOROVOD_TESTED} (`make setup` in hvd_gqsgd's source tree builds it)"
    if HOROVOD.is_under(version):
        raise IncompatibleHorovodError(f"{message}; {remedy}")
    if os.environ.get(ALLOW_UNTESTED) != "1":
        raise IncompatibleHorovodError(f"{message}; {remedy}, or set {ALLOW_UNTESTED}=1 to go on untested")
    warnings.warn(f"{message}; going on because {ALLOW_UNTESTED}=1", stacklevel=2)


def _join(numbers: Version) -> str:
    return ".".join(map(str, numbers))


def _numbers(version: str) -> Version | None:
    """The numbers that ``version`` begins with; None when there are none."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else None
