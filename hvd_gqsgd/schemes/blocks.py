"""The settings that schemes with block norms, a rotation and a dither have in common, and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hvd_gqsgd.maths import dither, rotation
from hvd_gqsgd.schemes.base import Scheme

MAX_BLOCK_SIZE = 1 << 24
ROTATIONS = ("hadamard", None)
DITHERS = (*dither.KINDS, None)


class BlockScheme(Scheme):
    """A scheme whose dataclass has the settings below, each documented in ``GlobalQSGD``.

    No dataclass itself: its fields would come before a scheme's own, which are named first when something is wrong.
    """

    block_size: int
    rotation: str | None
    dither: str | None
    error_feedback: bool
    min_numel: int
    seed: int

    def _check_blocks(self) -> None:
        """Raise SettingsError for what is wrong with them; put in the dither that None stands for."""
        self._require_one_of("rotation", ROTATIONS)
        self._require_one_of("dither", DITHERS)
        self._require_one_of("error_feedback", (False, True))
        if self.dither is None:
            object.__setattr__(self, "dither", "nearest" if self.error_feedback else "correlated")
        staged = self.rotation is not None or self.error_feedback
        self._require_integer("block_size", 1, rotation.MAX_BLOCK_SIZE if staged else MAX_BLOCK_SIZE)
        self._require_integer("min_numel", 0, (1 << 63) - 1)
        self._require_integer("seed", 0, (1 << 64) - 1)

    @property
    def keeps_residuals(self) -> bool:
        return self.error_feedback

    def layout_settings(self) -> dict[str, Any]:
        return {"block_size": self.block_size, "rotated": self.rotation is not None, "dither": self.dither}

    def _too_small(self, shape: Sequence[int]) -> bool:
        return math.prod(shape) < max(1, self.min_numel)
