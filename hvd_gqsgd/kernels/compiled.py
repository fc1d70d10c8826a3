"""The compiled kernels (csrc/) behind ctypes, which lets other Python threads run meanwhile."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np

from hvd_gqsgd.errors import KernelsMissingError
from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.kernels.layout import Layout
from hvd_gqsgd.maths.dither import KINDS, Turn

#: Instruction sets by what ``gqsgd_runs`` calls them, best first.
ISAS = {"avx512": 2, "avx2": 1, "baseline": 0}
BUILD = "`pip install --no-build-isolation -e .` or `make setup` in the source tree"
ABI = 6

_int, _i64, _u64, _double, _pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_double, ctypes.c_void_p
_SIGNATURES: dict[str, list[type]] = {
    "gqsgd_block_norms": [_pointer, _pointer, _pointer, _pointer, _i64, _pointer, _int, _int],
    "gqsgd_encode": [_pointer, _pointer, _pointer, _pointer, _i64, _pointer, _pointer, _int, _int],
    "gqsgd_decode": [_pointer, _pointer, _pointer, _i64, _double, _pointer, _pointer, _int, _int],
}


class _Codec(ctypes.Structure):
    """gqsgd_codec. ctypes takes integers of any size mod 2^64, as the specification does."""

    _fields_ = (
        ("block_size", _i64),
        ("rotated", _i64),
        ("dither", _i64),
        ("exponential", _i64),
        ("seed", _u64),
        ("step", _u64),
        ("rank", _u64),
        ("size", _u64),
        ("summands", _u64),
    )


def library_path() -> Path:
    """Where ``setup.py`` puts the shared library of this Python."""
    return Path(__file__).with_name("_kernels" + EXTENSION_SUFFIXES[0])


@functools.cache
def load(path: Path) -> ctypes.CDLL:
    """The library at ``path``, signatures declared.

    Raises KernelsMissingError where it does not exist, does not load, or was built from other sources.
    """
    try:
        library = ctypes.CDLL(str(path))
        abi = library.gqsgd_abi()
    except (OSError, AttributeError) as error:
        raise KernelsMissingError(f"the compiled kernels did not load: {error}; build them with {BUILD}") from error
    check_abi(path, abi)
    declare(library, _SIGNATURES)
    return library


def declare(library: ctypes.CDLL, signatures: dict[str, list[type]]) -> None:
    """Tell ctypes what the functions of ``library`` take; they return nothing."""
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None


def check_abi(path: Path, abi: int) -> None:
    """Raise KernelsMissingError unless the library at ``path`` speaks this interface."""
    if abi != ABI:
        raise KernelsMissingError(
            f"{path} is of another version (expected interface {ABI}, got {abi}); rebuild it with {BUILD}"
        )


def runnable() -> list[str]:
    """Names of the instruction sets that this processor runs, best first. Raises KernelsMissingError as ``load``."""
    library = load(library_path())
    return [name for name, code in ISAS.items() if library.gqsgd_runs(code)]


def default_threads() -> int:
    """Threads that ``threads=0`` stands for: OpenMP's default."""
    return int(load(library_path()).gqsgd_default_threads())


def address_of_array(array: np.ndarray) -> int:
    """Address of a NumPy array's first element."""
    return array.ctypes.data


class CompiledKernels(Kernels):
    """``address`` gives the address of the caller's buffers; the default takes NumPy arrays.

    isa: a key of ``ISAS``, the best that runs here by default. threads: a number, or what to call for it each time;
    0 is OpenMP's default. Small work takes fewer threads.

    Raises KernelsMissingError where the library is not built or the processor lacks ``isa``.
    """

    def __init__(
        self,
        address: Callable[[Buffer], int] = address_of_array,
        isa: str | None = None,
        threads: Callable[[], int] | int = 0,
    ) -> None:
        here = runnable()
        if isa is not None and isa not in here:
            raise KernelsMissingError(f"kernels {isa!r} do not run on this processor; it has {', '.join(here)}")
        self.name = here[0] if isa is None else isa
        self._isa = ISAS[self.name]
        self._address = address
        self._threads = threads
        self._library = load(library_path())

    @property
    def threads(self) -> int:
        """What the next call asks for; 0 is OpenMP's default."""
        return self._threads() if callable(self._threads) else self._threads

    def block_norms(
        self, layout: Layout, tensors: Sequence[Buffer], norms: Buffer, turn: Turn, residuals: Sequence[Buffer] = ()
    ) -> None:
        self._library.gqsgd_block_norms(
            _codec(layout, turn),
            layout.segments_address,
            self._addresses(tensors),
            self._addresses(residuals),
            len(tensors),
            self._address(norms),
            self.threads,
            self._isa,
        )

    def encode(
        self,
        layout: Layout,
        tensors: Sequence[Buffer],
        norms: Buffer,
        words: Buffer,
        turn: Turn,
        residuals: Sequence[Buffer] = (),
    ) -> None:
        self._library.gqsgd_encode(
            _codec(layout, turn),
            layout.segments_address,
            self._addresses(tensors),
            self._addresses(residuals),
            len(tensors),
            self._address(norms),
            self._address(words),
            self.threads,
            self._isa,
        )

    def decode(
        self, layout: Layout, tensors: Sequence[Buffer], words: Buffer, norms: Buffer, turn: Turn, *, factor: float
    ) -> None:
        self._library.gqsgd_decode(
            _codec(layout, turn),
            layout.segments_address,
            self._addresses(tensors),
            len(tensors),
            factor,
            self._address(words),
            self._address(norms),
            self.threads,
            self._isa,
        )

    def _addresses(self, tensors: Sequence[Buffer]) -> ctypes.Array | None:
        """Null where there are none."""
        return (_u64 * len(tensors))(*map(self._address, tensors)) if tensors else None


def _codec(layout: Layout, turn: Turn) -> Any:
    dither = KINDS.index(layout.dither)
    own = (layout.block_size, layout.rotated, dither, layout.levels == "exponential")
    return ctypes.byref(_Codec(*own, turn.seed, turn.step, turn.rank, turn.size, turn.summed))
