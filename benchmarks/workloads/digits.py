"""scikit-learn's handwritten digits, drawn with replacement."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits


@cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).div_(16), torch.tensor(labels)


def digits(size: int, step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``size`` images (size, 64) with values in [0, 1], and their labels (size,)."""
    images, labels = _digits()
    chosen = torch.randint(len(labels), (size,), generator=torch.Generator().manual_seed(1_000_003 * step + rank))
    return images[chosen], labels[chosen]
