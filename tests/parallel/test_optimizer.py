"""GlobalQSGD under Horovod's own DistributedOptimizer: what its options mean, they still mean."""

import horovod.torch as hvd
import pytest
import torch
from rig import SHAPES, assert_is_mean, backward, finish_step, gradient, make_optimizer, make_parameters

from hvd_gqsgd.torch import GlobalQSGD


def step_and_check(parameters, optimizer, steps=3, **expected):
    for step in range(steps):
        backward(parameters, step)
        finish_step(parameters, optimizer, step, **expected)


@pytest.mark.parametrize("compression", [GlobalQSGD, GlobalQSGD(), GlobalQSGD(bits=8, seed=5)])
def test_class_and_instance(compression):
    parameters = make_parameters()
    step_and_check(parameters, make_optimizer(parameters, compression))


@pytest.mark.parametrize("bits", [4, 5, 6, 12, 16])
def test_every_width(bits):
    parameters = make_parameters()
    step_and_check(parameters, make_optimizer(parameters, GlobalQSGD(bits=bits)), bits=bits)


def test_sum():
    parameters = make_parameters()
    step_and_check(parameters, make_optimizer(parameters, op=hvd.Sum), scale=hvd.size())


def test_a_model_of_small_parameters_alone():
    parameters = make_parameters({"a": (10,), "b": (1023,), "c": (1, 1)})
    step_and_check(parameters, make_optimizer(parameters, op=hvd.Sum), scale=hvd.size())


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_all_ranks_at_plus_or_minus_max_come_back_to_the_last_place(bits):
    parameters = make_parameters({"w": (5000,)})
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=bits, rotation=None))
    for largest in (1e-40, 0.1, 3e38):
        signs = torch.where(torch.arange(5000) % 3 == 0, -1.0, 1.0)
        parameters["w"].grad = None
        (parameters["w"] * (signs * largest)).sum().backward()
        optimizer.synchronize()
        assert torch.allclose(parameters["w"].grad, signs * largest, rtol=2.0**-23, atol=0)
        with optimizer.skip_synchronize():
            optimizer.step()


@pytest.mark.parametrize("factor", [0.5, 2.0, 7.0])
def test_gradient_predivide_factor(factor):
    parameters = make_parameters()
    step_and_check(parameters, make_optimizer(parameters, gradient_predivide_factor=factor))


@pytest.mark.parametrize("groups", [1, 2, "list"])
def test_groups(groups):
    parameters = make_parameters()
    if groups == "list":
        groups = [[parameters["bias"], parameters["conv"]], [parameters["dense"]]]
    step_and_check(parameters, make_optimizer(parameters, groups=groups))


def test_without_named_parameters():
    parameters = make_parameters()
    step_and_check(parameters, make_optimizer(parameters, named=False))


def test_every_rank_gets_the_same_bits():
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=4))
    for step in range(3):
        backward(parameters, step)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in parameters.items():
        highest = hvd.allreduce(parameter.detach(), op=hvd.Max, name=f"highest.{name}")
        lowest = hvd.allreduce(parameter.detach(), op=hvd.Min, name=f"lowest.{name}")
        assert torch.equal(highest, lowest), name


def test_backward_passes_per_step():
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, backward_passes_per_step=3)
    for first in (0, 3):
        for step in range(first, first + 3):
            backward(parameters, step)
        optimizer.synchronize()
        for name, parameter in parameters.items():

            def accumulated(rank, name=name, shape=parameter.shape, first=first):
                return sum(gradient(name, shape, rank, step) for step in range(first, first + 3))

            assert_is_mean(parameter.grad, name, make=accumulated)
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()


def test_hooks_in_another_order_on_every_rank_with_equal_shapes():
    shapes = {"left": (2000,), "right": (2000,), "third": (2000,)}
    names = list(shapes)
    parameters = make_parameters(shapes)
    optimizer = make_optimizer(parameters)
    for step in range(4):
        turned = names[(hvd.rank() + step) % 3 :] + names[: (hvd.rank() + step) % 3]
        backward(parameters, step, names=turned)
        finish_step(parameters, optimizer, step)


@pytest.mark.parametrize("to_none", [True, False])
def test_ten_parameters_of_equal_shape_unused_on_some_ranks(to_none):
    shapes = {f"branch{i}": (1200,) for i in range(10)} | {"trunk": (3000,)}
    parameters = make_parameters(shapes)
    model = torch.nn.ParameterDict(parameters)
    optimizer = make_optimizer(parameters)
    for step in range(4):
        model.zero_grad(set_to_none=to_none)

        def uses(rank, name, step=step):
            return name == "trunk" or (int(name[6:]) + rank + step) % 3 == 0

        backward(parameters, step, names=[n for n in shapes if uses(hvd.rank(), n)])
        optimizer.synchronize()
        for name, parameter in parameters.items():

            def used_or_zero(rank, name=name, shape=parameter.shape, step=step):
                return gradient(name, shape, rank, step) * (1.0 if uses(rank, name, step) else 0.0)

            # In a world of one Horovod leaves the gradient of an unused parameter None.
            result = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert_is_mean(result, name, make=used_or_zero)
        with optimizer.skip_synchronize():
            optimizer.step()


def test_parameters_frozen_and_unfrozen_between_steps():
    parameters = make_parameters()
    model = torch.nn.ParameterDict(parameters)
    optimizer = make_optimizer(parameters)
    for step in range(4):
        frozen = step % 2 == 1
        parameters["dense"].requires_grad_(not frozen)
        model.zero_grad(set_to_none=True)
        backward(parameters, step, names=["conv", "bias"] if frozen else None)
        optimizer.synchronize()
        assert_is_mean(parameters["conv"].grad, "conv", step=step)
        if frozen:
            assert parameters["dense"].grad is None or not parameters["dense"].grad.any()
        else:
            assert_is_mean(parameters["dense"].grad, "dense", step=step)
        with optimizer.skip_synchronize():
            optimizer.step()


def test_several_optimizers_share_a_compressor_and_names():
    compression = GlobalQSGD(bits=12)
    pairs = []
    for _ in range(3):
        parameters = make_parameters()
        pairs.append((parameters, make_optimizer(parameters, compression)))
    for step in range(2):
        for parameters, optimizer in pairs:
            backward(parameters, step)
            finish_step(parameters, optimizer, step, bits=12)


def test_two_optimizers_under_way_at_once():
    first, second = make_parameters({"a": (2000,)}), make_parameters({"b": (2000,)})
    optimizers = make_optimizer(first), make_optimizer(second)
    for step in range(3):
        # As in a GAN: one backward pass fills both, the steps come after.
        order = ["a", "b"] if (hvd.rank() + step) % 2 else ["b", "a"]
        backward(first | second, step, names=order)
        for optimizer in optimizers:
            optimizer.synchronize()
        assert_is_mean(first["a"].grad, "a", step=step)
        assert_is_mean(second["b"].grad, "b", step=step)
        for optimizer in optimizers:
            with optimizer.skip_synchronize():
                optimizer.step()
            optimizer.zero_grad()


def test_closure():
    # Horovod's recipe: the closure synchronises, the step does not.
    parameters = make_parameters()
    optimizer = make_optimizer(parameters)
    calls = []

    def closure():
        optimizer.zero_grad()
        backward(parameters, step=len(calls))
        optimizer.synchronize()
        for name, parameter in parameters.items():
            assert_is_mean(parameter.grad, name, step=len(calls))
        calls.append(1)
        return torch.zeros(())

    for _ in range(2):
        with optimizer.skip_synchronize():
            optimizer.step(closure)
    assert len(calls) == 2


def test_clipping_after_synchronize():
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=16))
    backward(parameters)
    optimizer.synchronize()
    before = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    with optimizer.skip_synchronize():
        optimizer.step()
    assert before > 1
    moved = torch.sqrt(sum((p.detach() ** 2).sum() for p in parameters.values()))
    assert moved.item() == pytest.approx(1.0, rel=1e-3)


def test_a_parameter_larger_than_a_bucket():
    parameters = make_parameters({"huge": (3_000_001,), "small": (1024,), "large": (2_200_000,)})
    optimizer = make_optimizer(parameters)
    step_and_check(parameters, optimizer, steps=2)


def test_settings_may_change_during_training():
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=6))
    step_and_check(parameters, optimizer, bits=6)
    optimizer._compression = GlobalQSGD(bits=12)
    step_and_check(parameters, optimizer, bits=12)


def test_shapes_cover_both_ways():
    assert SHAPES["bias"][0] < GlobalQSGD().min_numel <= SHAPES["dense"][0]
