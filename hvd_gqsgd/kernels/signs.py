"""One-bit kernels over single tensors: the specification in NumPy, and compiled code that gives the same bits.

maths.signs has the layout of the bits and the law of the merge. Buffers are NumPy arrays, contiguous and flat.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod

import numpy as np

from hvd_gqsgd.errors import KernelsMissingError
from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.compiled import CompiledKernels, address_of_array
from hvd_gqsgd.kernels.reference import ReferenceKernels
from hvd_gqsgd.maths import floats, signs

_int, _i64, _u64, _pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
_SIGNATURES: dict[str, list[type]] = {
    "gqsgd_signs_pack": [_pointer, _int, _pointer, _i64, _pointer, _int, _int],
    "gqsgd_signs_merge": [_u64, _u64, _u64, _u64, _pointer, _i64, _i64, _i64, _pointer, _int, _int],
    "gqsgd_signs_compensate": [_pointer, _int, _pointer, _i64, _pointer, ctypes.c_float, _int, _int],
    "gqsgd_signs_expand": [_pointer, _i64, _u64, _int, _pointer, _int, _int],
}


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
        self, rows: np.ndarray, merged: np.ndarray, *, seed: int, step: int, tensor_id: int, first_word: int
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
        self, rows: np.ndarray, merged: np.ndarray, *, seed: int, step: int, tensor_id: int, first_word: int
    ) -> None:
        merged[...] = signs.merge_rows(rows.view(np.uint32), seed, step, tensor_id, first_word).view(np.int32)

    def compensate(self, x: np.ndarray, compensation: np.ndarray, words: np.ndarray, scale: float) -> None:
        compensation += floats.to_float32(x)
        ones = signs.unpack(words.view(np.uint32), x.size)
        compensation -= np.where(ones, np.float32(scale), -np.float32(scale))

    def expand(self, words: np.ndarray, scale: float, out: np.ndarray) -> None:
        positive, negative = values_of(scale, out)
        out[...] = np.where(signs.unpack(words.view(np.uint32), out.size), positive, negative)


class CompiledSigns(SignKernels):
    """The compiled code of one instruction set, named by a key of ``compiled.ISAS``; threads: 0 is OpenMP's default."""

    def __init__(self, isa: str, threads: int = 0) -> None:
        self._how = threads, compiled.ISAS[isa]
        self._library = compiled.load(compiled.library_path())
        compiled.declare(self._library, _SIGNATURES)

    def pack(self, x: np.ndarray, compensation: np.ndarray, words: np.ndarray) -> None:
        given, kept = (address_of_array(x), _code_of(x)), address_of_array(compensation)
        self._library.gqsgd_signs_pack(*given, kept, x.size, address_of_array(words), *self._how)

    def merge(
        self, rows: np.ndarray, merged: np.ndarray, *, seed: int, step: int, tensor_id: int, first_word: int
    ) -> None:
        drawn_of, given = (seed, step, tensor_id, first_word), (address_of_array(rows), rows.strides[0] // 4)
        self._library.gqsgd_signs_merge(*drawn_of, *given, *rows.shape, address_of_array(merged), *self._how)

    def compensate(self, x: np.ndarray, compensation: np.ndarray, words: np.ndarray, scale: float) -> None:
        given, kept = (address_of_array(x), _code_of(x)), address_of_array(compensation)
        self._library.gqsgd_signs_compensate(*given, kept, x.size, address_of_array(words), scale, *self._how)

    def expand(self, words: np.ndarray, scale: float, out: np.ndarray) -> None:
        positive = int.from_bytes(values_of(scale, out)[:1].tobytes(), "little")
        target = (positive, out.itemsize, address_of_array(out))
        self._library.gqsgd_signs_expand(address_of_array(words), out.size, *target, *self._how)


def _dtype_of(array: np.ndarray) -> str:
    return next(name for name in floats.DTYPES if floats.storage(name) == array.dtype)


def _code_of(array: np.ndarray) -> int:
    return floats.DTYPES.index(_dtype_of(array))


def values_of(scale: float, like: np.ndarray) -> np.ndarray:
    """[scale, -scale] in the dtype of ``like``, rounded as decoded values are."""
    return floats.from_float64(np.array([scale, -scale], dtype=np.float64), _dtype_of(like))


def beside(kernels: Kernels) -> SignKernels:
    """The sign kernels that go with ``kernels``: the same instruction set and threads.

    Raises KernelsMissingError for kernels that have none, which are not for NumPy arrays.
    """
    if isinstance(kernels, ReferenceKernels):
        return ReferenceSigns()
    if isinstance(kernels, CompiledKernels):
        return CompiledSigns(kernels.name, kernels.threads)
    raise KernelsMissingError(
        f"kernels {kernels.name!r} have no sign kernels; expected what hvd_gqsgd.kernels.select() returns"
    )
