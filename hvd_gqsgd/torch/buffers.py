"""Tensors as the kernels see them, and the kernels for a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from hvd_gqsgd import kernels
from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.torch.operators import TorchKernels

#: Gradients that can be compressed, with their names in the kernels' interface.
DTYPE_NAMES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float64: "float64",
}


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A NumPy view of a CPU tensor's memory; bfloat16 as uint16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


@cache
def kernels_for(device_type: str) -> Kernels:
    """The kernels for gradients on ``device_type``: compiled on "cpu", PyTorch's own operators elsewhere."""
    if device_type == "cpu":
        return kernels.select(address=torch.Tensor.data_ptr, as_array=as_array, threads=torch.get_num_threads)
    return TorchKernels()


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's elements for a scheme on the host: its own memory where the processor can read it."""
    return as_array(tensor.detach().cpu())


@contextmanager
def written_back(tensors: Sequence[torch.Tensor]) -> Iterator[list[np.ndarray]]:
    """Arrays to write ``tensors`` through; those of a device are copied there at the end."""
    near = [t if t.device.type == "cpu" else torch.empty_like(t, device="cpu") for t in tensors]
    yield [as_array(tensor) for tensor in near]
    for tensor, written in zip(tensors, near, strict=True):
        if written is not tensor:
            tensor.copy_(written)


@cache
def host_kernels() -> Kernels:
    """The compiled kernels for NumPy arrays."""
    return kernels.select(threads=torch.get_num_threads)


# Missing kernels are an error when the front end is imported, not in the middle of a backward pass.
kernels_for("cpu")
