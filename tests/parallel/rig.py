"""A model whose gradients are given, an optimizer that leaves them alone, and the bound that results must keep."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Sequence

import horovod.torch as hvd
import numpy as np
import torch

from hvd_gqsgd.maths import levels
from hvd_gqsgd.torch import GlobalQSGD

#: The first two are compressed with default settings, the third travels as Horovod would send it.
SHAPES = {"conv": (8, 300), "dense": (1500,), "bias": (10,)}


def gradient(name: str, shape: Sequence[int], rank: int, step: int = 0, dtype=torch.float32) -> torch.Tensor:
    """What ``rank`` computes for parameter ``name`` in ``step``."""
    seed = abs(hash((len(name), sum(map(ord, name)), rank, step))) % (1 << 31)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def make_parameters(shapes=None, dtype=torch.float32) -> dict[str, torch.nn.Parameter]:
    shapes = SHAPES if shapes is None else shapes
    return {name: torch.nn.Parameter(torch.zeros(*shape, dtype=dtype)) for name, shape in shapes.items()}


def make_optimizer(parameters, compression=GlobalQSGD, named=True, **options):
    """A DistributedOptimizer over plain SGD with step size 1."""
    sgd = torch.optim.SGD(list(parameters.values()), lr=1.0)
    return hvd.DistributedOptimizer(
        sgd, named_parameters=list(parameters.items()) if named else None, compression=compression, **options
    )


def backward(parameters, step: int = 0, names: Sequence[str] | None = None, rank: int | None = None) -> None:
    """Give each parameter in ``names`` (all) its gradient, hooks fired in the order of ``names`` reversed."""
    rank = hvd.rank() if rank is None else rank
    loss = torch.zeros(())
    for name in parameters if names is None else names:
        parameter = parameters[name]
        given = gradient(name, parameter.shape, rank, step, parameter.dtype)
        loss = loss + (parameter * given).sum().float()
    loss.backward()


def run(parameters, optimizer, steps: int, first: int = 0) -> None:
    """Steps with given gradients; SGD with rate 1, so parameters are minus the sum of all means."""
    for step in range(first, first + steps):
        backward(parameters, step)
        optimizer.step()
        optimizer.zero_grad()


def uninterrupted_and_resumed(compression, shapes, steps: int, load_first: bool):
    """Parameters after twice ``steps``: in one go, and with the state saved half-way and loaded into a new optimizer.

    load_first: the state is loaded before there is that optimizer.
    """
    parameters = make_parameters(shapes)
    optimizer = make_optimizer(parameters, compression)
    run(parameters, optimizer, steps)
    file = io.BytesIO()
    torch.save({"model": parameters, "compression": compression.state_dict()}, file)
    run(parameters, optimizer, steps, first=steps)
    uninterrupted = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    file.seek(0)
    saved = torch.load(file, weights_only=False)
    resumed = make_parameters(shapes)
    for name, parameter in resumed.items():
        parameter.data.copy_(saved["model"][name].detach())
    # What a new process has: no optimizer that has stepped.
    del optimizer, parameters
    gc.collect()
    if load_first:
        compression.load_state_dict(saved["compression"])
    optimizer = make_optimizer(resumed, compression)
    if not load_first:
        compression.load_state_dict(saved["compression"])
    run(resumed, optimizer, steps, first=steps)
    return uninterrupted, {name: parameter.detach() for name, parameter in resumed.items()}


def mean_of(name, shape, dtype=torch.float32, step=0, ranks: Sequence[int] | None = None, over: int | None = None):
    """The exact mean over ``ranks`` (all), in float64; ``over`` divides by another count than theirs."""
    ranks = range(hvd.size()) if ranks is None else ranks
    total = sum(gradient(name, shape, rank, step, dtype).double() for rank in ranks)
    return total / (over or len(ranks))


def level_of(
    values: Sequence[torch.Tensor], bits: int = 8, block_size: int = 256, n: int | None = None, rotated: bool = True
):
    """What the mean may be off by, for each element. values: every rank's tensor.

    M / L, which nothing exceeds, for blocks that are not rotated. Of rotated ones, M is at most some four times their
    root mean square, and errors are sums of half a level from many elements: five standard deviations of those.
    """
    n = len(values) if n is None else n
    flat = np.array([v.detach().abs().double().reshape(-1).numpy() for v in values])
    numel = flat.shape[1]
    blocks = np.pad(flat, ((0, 0), (0, -numel % block_size))).reshape(len(flat), -1, block_size)
    if rotated:
        lengths = np.minimum(block_size, numel - block_size * np.arange(blocks.shape[1]))
        norms = 12 * np.sqrt((blocks**2).sum(axis=2) / lengths).max(axis=0)
    else:
        norms = blocks.max(axis=(0, 2))
    level = norms.repeat(block_size)[:numel] / levels.count_levels(bits, n)
    return torch.from_numpy(level).reshape(values[0].shape)


def assert_is_mean(
    result: torch.Tensor,
    name: str,
    *,
    step: int = 0,
    scale: float = 1.0,
    bits: int = 8,
    make: Callable[[int], torch.Tensor] | None = None,
) -> None:
    """``result`` is scale * mean over all ranks, within one level; exactly the mean where nothing is compressed."""
    make = make or (lambda rank: gradient(name, result.shape, rank, step, result.dtype))
    values = [make(rank) for rank in range(hvd.size())]
    mean = sum(v.double() for v in values) / len(values)
    # Rounding of the result's own dtype, and of Horovod's sum where the tensor is not compressed.
    rounding = torch.finfo(result.dtype).eps * 4 * max(v.abs().max().double() for v in values)
    bound = rounding + (level_of(values, bits) if result.numel() >= 1024 and hvd.size() > 1 else 0)
    error = (result.double() / scale - mean).abs()
    worst = (error - bound).max()
    assert worst <= 0, f"{name}: off by {error.max():.3g}, {worst:.3g} more than one level"


def finish_step(parameters, optimizer, step: int, **expected) -> None:
    """Synchronise, check every gradient as ``assert_is_mean`` does, and let the optimizer step."""
    optimizer.synchronize()
    for name, parameter in parameters.items():
        assert_is_mean(parameter.grad, name, step=step, **expected)
    with optimizer.skip_synchronize():
        optimizer.step()
    optimizer.zero_grad()
