"""A small GPT that learns to write bytes of Python's own library sources."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.workloads.base import Batch, Workload

CONTEXT = 128
WIDTH = 256
LAYERS = 6
HEADS = 8
BATCH = 8


@cache
def library_sources() -> torch.Tensor:
    """The modules at the top of the standard library, one after the other in the order of their names, as bytes."""
    folder = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    return torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())


class _Block(nn.Module):
    """Attention to what came before, then a perceptron, both on normalised inputs beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.attention_in = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.attention_in(self.before_attention(x)).unflatten(-1, (3, HEADS, -1)).movedim(-3, 0)
        query, key, value = (part.transpose(1, 2) for part in parts)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(seen.transpose(1, 2).flatten(-2))
        return x + self.perceptron(x)


class _GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        self.blocks = nn.Sequential(*[_Block() for _ in range(LAYERS)], nn.LayerNorm(WIDTH))
        self.scores = nn.Linear(WIDTH, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.scores(self.blocks(self.bytes(text) + self.places))


class SmallGPT(Workload):
    """6 layers of width 256, 4.9 million parameters, 8 passages of 128 bytes per rank."""

    name = "gpt"

    def model(self) -> nn.Module:
        return _GPT()

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    def batch(self, step: int, rank: int) -> Batch:
        text = library_sources()
        draw = torch.Generator().manual_seed(1_000_003 * step + rank)
        starts = torch.randint(len(text) - CONTEXT - 1, (BATCH,), generator=draw)
        passages = torch.stack([text[start : start + CONTEXT + 1] for start in starts.tolist()]).long()
        return passages[:, :-1], passages[:, 1:]
