"""A residual convolutional net with the 161 tensors of ResNet-50, half as wide, on 8 x 8 images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from benchmarks.workloads.base import Batch, Workload
from benchmarks.workloads.digits import digits


class _Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut (He et al. 2016, figure 5)."""

    def __init__(self, inputs: int, width: int, stride: int, widen: bool) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_convolution(inputs, width, 1),
            nn.ReLU(),
            *_convolution(width, width, 3, stride),
            nn.ReLU(),
            *_convolution(width, 4 * width, 1),
        )
        self.shortcut = nn.Sequential(*_convolution(inputs, 4 * width, 1, stride)) if widen else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.main(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)


class ResidualNet(Workload):
    """Bottlenecks 3, 4, 6, 3 of width 32 to 256 on the digits, batch 32 per rank."""

    name = "cnn"

    def model(self) -> nn.Module:
        parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8)), *_convolution(1, 32, 3), nn.ReLU()]
        inputs = 32
        for stage, depth in enumerate((3, 4, 6, 3)):
            width = 32 << stage
            for block in range(depth):
                parts.append(_Bottleneck(inputs, width, 2 if stage and not block else 1, widen=not block))
                inputs = 4 * width
        return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)

    def batch(self, step: int, rank: int) -> Batch:
        return digits(32, step, rank)
