"""A tiny GPT on bytes of Python's own library sources, whose last tenth it never sees."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from benchmarks.workloads.gpt import library_sources
from benchmarks.workloads.small.base import Batch, Metric, Task

CONTEXT = 64
WIDTH = 128
LAYERS = 2
HEADS = 4
BATCH = 8
HELD_OUT = 0.1
#: Passages that a model is judged by, evenly spaced over what was held out.
JUDGED = 256


def _parts() -> tuple[torch.Tensor, torch.Tensor]:
    text = library_sources()
    start = int(len(text) * (1 - HELD_OUT))
    return text[:start], text[start:]


def _passages(text: torch.Tensor, starts: torch.Tensor) -> Batch:
    places = starts[:, None] + torch.arange(CONTEXT + 1)
    passages = text[places].long()
    return passages[:, :-1], passages[:, 1:]


class _GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.scores = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256))
        self.register_buffer("later", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        x = self.bytes(text) + self.places.weight
        for block in self.blocks:
            x = block(x, src_mask=self.later, is_causal=True)
        return self.scores(x)


class TinyGPT(Task):
    """2 layers of width 128, 0.47 million parameters; 8 passages of 64 bytes per rank."""

    name = "gpt"
    steps = 900
    rates: ClassVar = {"sgd": 0.5, "adam": 8e-3}
    metrics = (Metric("held-out loss"),)

    def model(self) -> nn.Module:
        return _GPT()

    def batch(self, draw: torch.Generator) -> Batch:
        text, _ = _parts()
        return _passages(text, torch.randint(len(text) - CONTEXT, (BATCH,), generator=draw))

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        text, following = batch
        return nn.functional.cross_entropy(model(text).flatten(0, 1), following.flatten())

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        _, text = _parts()
        starts = torch.linspace(0, len(text) - CONTEXT - 1, JUDGED).long()
        return {"held-out loss": self.loss(model, _passages(text, starts)).item()}

    def references(self) -> dict[str, float]:
        text, _ = _parts()
        shares = torch.bincount(text.long(), minlength=256).double() / len(text)
        return {"entropy of single bytes": float(-torch.special.xlogy(shares, shares).sum())}
