"""One-bit kernels over single tensors: the specification in NumPy, and compiled code that gives the same bits.

maths.signs has the layout of the bits and the law of the merge. Buffers are NumPy arrays, contiguous and flat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from hvd_gqsgd.errors import KernelsMissingError
from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.reference import ReferenceKernels
from hvd_gqsgd.maths import floats, signs


class SignKernels(ABC):
    """Pack, merge, compensate and expand.

    x: (numel,) of a dtype of maths.floats, finite; bfloat16 as uint16. compensation: float32 (numel,).
    words: int32 (signs.count_words(numel),).
    """

    @abstractmethod
    def pack(self, x: np.ndarray, compensation: np.ndarray, words: np.ndarray) -> None:
        """words = the signs of x + compensation, a sum in float32."""

    @abstractmethod
    def merge(
        self, rows: np.ndarray, merged: np.ndarray, seed: int, step: int, tensor_id: int, first_word: int
    ) -> None:
        """merged = signs.merge_rows(rows); rows: int32 (n, words), whose words follow each other; merged: (words,)."""

    @abstractmethod
    def compensate(self, x: np.ndarray, compensation: np.ndarray, words: np.ndarray, scale: float) -> None:
        """compensation += x, then -= scale where a bit is 1 and += scale elsewhere: two roundings to float32."""

    @abstractmethod
    def expand(self, words: np.ndarray, scale: float, out: np.ndarray) -> None:
        """out = scale where a bit is 1, -scale elsewhere, in the dtype of ``out``."""


class ReferenceSigns(SignKernels):
    """The specification."""

    def pack(self, x: np.ndarray, compensation: np.ndarray, words: np.ndarray) -> None:
        words[...] = signs.pack(floats.to_float32(x) + compensation).view(np.int32)

    def merge(
        self, rows: np.ndarray, merged: np.ndarray, seed: int, step: int, tensor_id: int, first_word: int
    ) -> None:
        merged[...] = signs.merge_rows(rows.view(np.uint32), seed, step, tensor_id, first_word).view(np.int32)

    def compensate(self, x: np.ndarray, compensation: np.ndarray, words: np.ndarray, scale: float) -> None:
        compensation += floats.to_float32(x)
        ones = signs.unpack(words.view(np.uint32), x.size)
        compensation -= np.where(ones, np.float32(scale), -np.float32(scale))

    def expand(self, words: np.ndarray, scale: float, out: np.ndarray) -> None:
        positive, negative = values_of(scale, out)
        out[...] = np.where(signs.unpack(words.view(np.uint32), out.size), positive, negative)


def values_of(scale: float, like: np.ndarray) -> np.ndarray:
    """[scale, -scale] in the dtype of ``like``, rounded as decoded values are."""
    dtype = next(name for name in floats.DTYPES if floats.storage(name) == like.dtype)
    return floats.from_float64(np.array([scale, -scale], dtype=np.float64), dtype)


def beside(kernels: Kernels) -> SignKernels:
    """The sign kernels that go with ``kernels``: the same instruction set and threads.

    Raises KernelsMissingError for kernels that have none, which are not for NumPy arrays.
    """
    if isinstance(kernels, ReferenceKernels):
        return ReferenceSigns()
    raise KernelsMissingError(
        f"kernels {kernels.name!r} have no sign kernels; expected what hvd_gqsgd.kernels.select() returns"
    )
