"""TensorFlow's operators around the compiled kernels (csrc/), loaded once."""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import tensorflow as tf

from hvd_gqsgd import kernels
from hvd_gqsgd.errors import KernelsMissingError
from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.kernels.compiled import BUILD, CompiledKernels
from hvd_gqsgd.traffic import Traffic


def library_path() -> Path:
    """Where ``setup.py`` puts the operators of this Python."""
    return Path(__file__).with_name("_ops" + EXTENSION_SUFFIXES[0])


def _load() -> tuple[Any, ctypes.CDLL]:
    """The operators' Python functions and the library's own; KernelsMissingError where something is not there."""
    selected = kernels.select()
    if not isinstance(selected, CompiledKernels):
        raise KernelsMissingError(
            f"{kernels.ENVIRONMENT}={selected.name!r}: TensorFlow's operators call the compiled kernels; expected one "
            f"of {', '.join(compiled.runnable())}; or unset it for the best"
        )
    try:
        operators = tf.load_op_library(str(library_path()))
        library = ctypes.CDLL(str(library_path()))
    except (OSError, tf.errors.OpError) as error:
        raise KernelsMissingError(f"TensorFlow's operators did not load: {error}; build them with {BUILD}") from error
    compiled.check_abi(library_path(), library.gqsgd_tf_abi())
    library.gqsgd_tf_failure.restype = ctypes.c_char_p
    failure = library.gqsgd_tf_failure().decode()
    if failure:
        raise KernelsMissingError(f"TensorFlow {tf.__version__} does not take our operators: {failure}")
    functions = compiled.load(compiled.library_path())
    library.gqsgd_tf_bind(
        *(
            ctypes.cast(getattr(functions, name), ctypes.c_void_p)
            for name in ("gqsgd_block_norms", "gqsgd_encode", "gqsgd_decode")
        ),
        compiled.ISAS[selected.name],
    )
    return operators, library


operators, _library = _load()


class _CountedInOperators(Traffic):
    """``Traffic`` whose numbers are kept by the operators: Python is not there when a graph runs."""

    def __init__(self) -> None:
        pass

    @property
    def sent_bytes(self) -> int:  # type: ignore[override]
        return self._counts()[0]

    @property
    def dense_bytes(self) -> int:  # type: ignore[override]
        return self._counts()[1]

    def add(self, sent_bytes: int, dense_bytes: int) -> None:
        """Count what Python sent."""
        _library.gqsgd_tf_add_traffic(ctypes.c_int64(sent_bytes), ctypes.c_int64(dense_bytes))

    def reset(self) -> None:
        _library.gqsgd_tf_reset_traffic()

    @staticmethod
    def _counts() -> tuple[int, int]:
        sent, dense = ctypes.c_int64(), ctypes.c_int64()
        _library.gqsgd_tf_traffic(ctypes.byref(sent), ctypes.byref(dense))
        return sent.value, dense.value


traffic = _CountedInOperators()
