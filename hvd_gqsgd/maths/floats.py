"""Conversions between gradient dtypes and float32. bfloat16 is a uint16 array here: NumPy has no such dtype."""

from __future__ import annotations

import numpy as np

#: dtype names as they go over the kernel interface, in the order of their codes.
DTYPES = ("float32", "float16", "bfloat16", "float64")
_STORAGE: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float64": np.float64,
}


def storage(dtype: str) -> type[np.generic]:
    """NumPy's type that holds elements of ``dtype``."""
    return _STORAGE[dtype]


def to_float32(x: np.ndarray) -> np.ndarray:
    """float32 copy or view of x; a uint16 array is read as bfloat16, float64 rounds to nearest even."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(np.float32, copy=False)


def from_float64(x: np.ndarray, dtype: str) -> np.ndarray:
    """Round decoded values to ``dtype``: once to float32, then (half precisions) to nearest even again."""
    if dtype == "float64":
        return x
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
        if dtype != "bfloat16":
            return single.astype(_STORAGE[dtype], copy=False)
    bits = single.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(single), quiet, rounded).astype(np.uint16)
