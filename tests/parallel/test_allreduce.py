"""hvd.allreduce and its relatives with ``compression=GlobalQSGD``."""

import horovod.torch as hvd
import pytest
import torch
from rig import assert_is_mean, gradient, level_of, make_optimizer, make_parameters

from hvd_gqsgd.errors import UnsupportedError
from hvd_gqsgd.torch import GlobalQSGD


def own(name="x", shape=(3000,), step=0):
    return gradient(name, shape, hvd.rank(), step)


@pytest.mark.even_handles
@pytest.mark.parametrize("name", ["x", None])
@pytest.mark.parametrize("shape", [(3000,), (10,), (2, 3, 700)])
def test_the_mean_and_the_input_is_left_alone(name, shape):
    for step in range(3):
        x = own(shape=shape, step=step)
        before = x.clone()
        result = hvd.allreduce(x, name=name, compression=GlobalQSGD)
        assert_is_mean(result, "x", make=lambda rank, s=step: gradient("x", shape, rank, s))
        assert torch.equal(x, before)
        assert result.data_ptr() != x.data_ptr()


def test_a_name_may_be_used_again_with_another_shape():
    for numel in (3000, 4000, 2999, 5):
        x = own(shape=(numel,))
        assert_is_mean(hvd.allreduce(x, name="y", compression=GlobalQSGD), "x")


def test_sum_and_scale_factors():
    x = own()
    n = hvd.size()
    result = hvd.allreduce(x, name="s", op=hvd.Sum, compression=GlobalQSGD)
    assert_is_mean(result, "x", scale=n)
    result = hvd.allreduce(x, name="s", prescale_factor=0.5, postscale_factor=6.0, compression=GlobalQSGD)
    assert_is_mean(result, "x", scale=3.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("numel", [5, 3000])
def test_dtypes(dtype, numel):
    x = own(shape=(numel,)).to(dtype)
    result = hvd.allreduce(x, name="d", compression=GlobalQSGD)
    assert result.dtype == dtype
    assert_is_mean(result, "x", make=lambda rank: gradient("x", (numel,), rank).to(dtype))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_integers_travel_as_horovod_sends_them(dtype):
    x = torch.arange(3000, dtype=dtype)
    result = hvd.allreduce(x, name="i", op=hvd.Sum, compression=GlobalQSGD)
    assert torch.equal(result, x * hvd.size())


@pytest.mark.even_handles
@pytest.mark.parametrize("name", ["g", None])
def test_grouped_allreduce(name):
    shapes = [(3000,), (10,), (2000,), (3000,)]
    for step in range(2):
        tensors = [own(f"t{i}", shape, step) for i, shape in enumerate(shapes)]
        before = [t.clone() for t in tensors]
        results = hvd.grouped_allreduce(tensors, name=name, compression=GlobalQSGD)
        for i, (result, tensor, copy) in enumerate(zip(results, tensors, before, strict=True)):
            assert_is_mean(result, f"t{i}", step=step)
            assert torch.equal(tensor, copy)


def test_one_tensor_twice_in_a_group():
    x = own()
    for result in hvd.grouped_allreduce([x, x], name="twice", compression=GlobalQSGD):
        assert_is_mean(result, "x")


@pytest.mark.parametrize("op", ["Average", "Sum"])
@pytest.mark.parametrize("grouped", [False, True])
def test_gradients_flow_as_without_compression(op, grouped):
    def gradient_of(compression):
        x = own().requires_grad_()
        if grouped:
            (y,) = hvd.grouped_allreduce([x], name="f", op=getattr(hvd, op), compression=compression)
        else:
            y = hvd.allreduce(x, name="f", op=getattr(hvd, op), compression=compression)
        # The gradient of y differs from rank to rank, so that its reduction shows.
        (y * own("y")).sum().backward()
        return x.grad

    exact = gradient_of(hvd.Compression.none)
    ours = gradient_of(GlobalQSGD(bits=16))
    values = [gradient("y", (3000,), rank) for rank in range(hvd.size())]
    scale = hvd.size() if op == "Sum" else 1
    assert ((ours - exact).abs() <= scale * (level_of(values, bits=16) + 1e-6)).all()


def test_without_autograd_the_result_is_free_of_it():
    assert not hvd.allreduce(own(), name="n", compression=GlobalQSGD).requires_grad
    with torch.no_grad():
        x = own().requires_grad_()
        assert not hvd.allreduce(x, name="n", compression=GlobalQSGD).requires_grad


@pytest.mark.parametrize("op", ["Min", "Max", "Product", "Adasum"])
def test_other_reductions_say_so(op):
    with pytest.raises(UnsupportedError, match=f"allreduce of 'x' with op={op}.*expected op Average or Sum"):
        hvd.allreduce(own(), name="x", op=getattr(hvd, op), compression=GlobalQSGD)


def test_reducescatter_says_so():
    with pytest.raises(UnsupportedError, match=r"reducescatter of 'r'.*hvd.allreduce"):
        hvd.reducescatter(own(), name="r", compression=GlobalQSGD)
    with pytest.raises(UnsupportedError, match=r"grouped_reducescatter of 'r'.*hvd.allreduce"):
        hvd.grouped_reducescatter([own()], name="r", compression=GlobalQSGD)


def test_adasum_optimizer_says_so(several):
    parameters = make_parameters({"w": (2000,)})
    optimizer = make_optimizer(parameters, op=hvd.Adasum)
    with pytest.raises(UnsupportedError, match=r"op=Adasum.*write op=hvd.Average"):
        (parameters["w"].sum()).backward()
        optimizer.step()


def test_a_call_from_elsewhere_says_so():
    with pytest.raises(UnsupportedError, match=r"expected a call from Horovod.*compression=GlobalQSGD"):
        GlobalQSGD.compress(own())


def test_process_sets(several):
    halves = [[0], list(range(1, several))]
    sets = [hvd.add_process_set(ranks) for ranks in halves]
    try:
        for mine in sets:
            if not mine.included():
                continue
            parameters = make_parameters({"w": (2000,)})
            optimizer = make_optimizer(parameters, process_set=mine)
            for step in range(2):
                (parameters["w"] * own("w", (2000,), step)).sum().backward()
                optimizer.synchronize()
                members = [gradient("w", (2000,), rank, step) for rank in mine.ranks]
                exact = sum(m.double() for m in members) / len(members)
                direct = hvd.allreduce(own("w", (2000,), step), name="p", process_set=mine, compression=GlobalQSGD)
                for result in (parameters["w"].grad, direct):
                    assert ((result - exact).abs() <= level_of(members) + 1e-6).all()
                with optimizer.skip_synchronize():
                    optimizer.step()
                optimizer.zero_grad()
    finally:
        for one in sets:
            hvd.remove_process_set(one)
