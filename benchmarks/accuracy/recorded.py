"""Gradients of real models: every worker's mini-batch at the same parameters, at several points of training.

The models are those of ``benchmarks.workloads``, made smaller so that 128 gradients fit this memory and this time:

    cnn  ResidualNet up to its second stage, 7 bottlenecks, with a linear layer of its own; all 74 tensors, 364,266
         elements. Batches of 32 of the 1,797 digits, so that of 128 workers many share images.
    gpt  SmallGPT with 2 of its 6 blocks; of 28 tensors those that 128 workers have room for: both embeddings, the
         scores, and the second block without its perceptron's two matrices, in all 429,568 elements

One worker trains them, with the workload's own optimizer: what compression would do to training is not asked here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.accuracy.gradients import Tensor

if TYPE_CHECKING:
    from torch import nn

    from benchmarks.workloads import Workload

NAMES = ("cnn", "gpt")
WORKERS = 128
FOLDER = Path("build/accuracy")


class Recording(NamedTuple):
    """A model's gradients: float32 (128, d), memory-mapped."""

    workers: np.ndarray
    tensors: tuple[Tensor, ...]


def _model(name: str) -> tuple[Workload, nn.Module]:
    from torch import nn

    from benchmarks.workloads import WORKLOADS

    workload = WORKLOADS[name]()
    model = workload.build()
    if name == "cnn":
        assert isinstance(model, nn.Sequential)
        last = model[10].main[-1].num_features
        return workload, nn.Sequential(*model[:11], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10))
    model.blocks = nn.Sequential(*model.blocks[:2], model.blocks[-1])
    return workload, model


def _wanted(model: str, tensor: str) -> bool:
    if model == "cnn":
        return True
    outside = not tensor.startswith("blocks.0")
    return outside and tensor not in ("blocks.1.perceptron.1.weight", "blocks.1.perceptron.3.weight")


def record(name: str, points: list[int]) -> None:
    """Train for max(points) steps; write the gradients after each of ``points`` steps. Takes about a minute."""
    import torch

    workload, model = _model(name)
    optimizer = workload.optimizer(model.parameters())
    kept = {key: p for key, p in model.named_parameters() if _wanted(name, key)}
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.save(FOLDER / f"{name}.npy", np.array([(key, repr(tuple(p.shape))) for key, p in kept.items()]))

    def backward(step: int, rank: int) -> None:
        optimizer.zero_grad()
        workload.loss(model, workload.batch(step, rank)).backward()

    for step in range(max(points) + 1):
        if step in points:
            rows = []
            for rank in range(WORKERS):
                backward(step, rank)
                rows.append(torch.cat([p.grad.flatten() for p in kept.values() if p.grad is not None]).numpy())
            np.save(_path(name, step), np.array(rows))
        backward(step, WORKERS)
        optimizer.step()


def is_recorded(name: str, points: list[int]) -> bool:
    return all(_path(name, point).exists() for point in points)


def load(name: str, point: int) -> Recording:
    """What ``record`` wrote for this point."""
    tensors = np.load(FOLDER / f"{name}.npy")
    shapes = [tuple(int(length) for length in shape.strip("(),").split(",")) for _, shape in tensors]
    workers = np.load(_path(name, point), mmap_mode="r")
    return Recording(workers, tuple(Tensor(str(key), shape) for (key, _), shape in zip(tensors, shapes, strict=True)))


def _path(name: str, point: int) -> Path:
    return FOLDER / f"{name}_{point}.npy"
