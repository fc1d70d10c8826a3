"""A convolutional net on scikit-learn's handwritten digits, a quarter of which it never sees."""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.workloads.small.base import Batch, Metric, Task

BATCH = 32


@cache
def _parts() -> tuple[Batch, Batch]:
    """Images (n, 1, 8, 8) with values in [0, 1] and labels (n,), to train on and to test."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    train, test = (torch.tensor(part, dtype=torch.float32).div_(16).unflatten(1, (1, 8, 8)) for part in split[:2])
    return (train, torch.tensor(split[2])), (test, torch.tensor(split[3]))


class Digits(Task):
    """Two convolutions and two layers, 151,306 parameters; 32 images per rank."""

    name = "digits"
    steps = 500
    rates: ClassVar = {"sgd": 0.1, "adam": 3e-3}
    metrics = (Metric("train loss"), Metric("test loss"), Metric("test accuracy", higher_is_better=True))

    def model(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, 10)),
        )

    def batch(self, draw: torch.Generator) -> Batch:
        (images, labels), _ = _parts()
        chosen = torch.randint(len(labels), (BATCH,), generator=draw)
        return images[chosen], labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        images, labels = batch
        return cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        train, (images, labels) = _parts()
        scores = model(images)
        return {
            "train loss": self.loss(model, train).item(),
            "test loss": cross_entropy(scores, labels).item(),
            "test accuracy": (scores.argmax(dim=1) == labels).float().mean().item(),
        }

    def references(self) -> dict[str, float]:
        _, (_, labels) = _parts()
        return {"one test image": 1 / len(labels)}
