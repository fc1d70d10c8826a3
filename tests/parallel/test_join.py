"""hvd.join: ranks that ran out of data contribute zeros, and what was agreed without them is agreed again."""

import horovod.torch as hvd
import pytest
import torch
from rig import gradient, level_of, make_optimizer, make_parameters

from hvd_gqsgd.torch import GlobalQSGD


def train_steps(parameters, optimizer, first, steps, present):
    """Steps in which only the ranks in ``present`` take part; Average still divides by the world's size."""
    n = hvd.size()
    for step in range(first, first + steps):
        for name, parameter in parameters.items():
            (parameter * gradient(name, parameter.shape, hvd.rank(), step)).sum().backward()
        optimizer.synchronize()
        for name, parameter in parameters.items():
            values = [gradient(name, parameter.shape, rank, step) for rank in present]
            exact = sum(v.double() for v in values) / n
            # L is what fits the whole world, and the scale what Horovod does to a mean with ranks missing.
            bound = level_of(values, n=n) + 1e-6
            assert ((parameter.grad.double() - exact).abs() <= bound).all(), (name, step)
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("agreed_before", [True, False])
def test_uneven_numbers_of_batches(several, agreed_before):
    parameters = make_parameters({"w": (3000,), "v": (2000,)})
    optimizer = make_optimizer(parameters)
    everyone = list(range(several))
    if agreed_before:
        train_steps(parameters, optimizer, 0, 2, everyone)
    if hvd.rank() == 0:
        # Alone: the others wait in join, and have never agreed to anything if not agreed_before.
        train_steps(parameters, optimizer, 10, 3, [0])
    hvd.join()
    train_steps(parameters, optimizer, 20, 3, everyone)
    if hvd.rank() == several - 1:
        train_steps(parameters, optimizer, 30, 2, [several - 1])
    hvd.join()
    train_steps(parameters, optimizer, 40, 2, everyone)


def test_direct_calls_while_others_have_joined(several):
    if hvd.rank() == 1:
        plain = GlobalQSGD(rotation=None)
        result = hvd.allreduce(torch.full((3000,), 6.0), name="x", compression=plain)
        assert torch.allclose(result, torch.full((3000,), 6.0 / several))
        result = hvd.allreduce(torch.full((3000,), 6.0), name="x", op=hvd.Sum, compression=plain)
        assert torch.allclose(result, torch.full((3000,), 6.0))
    hvd.join()
