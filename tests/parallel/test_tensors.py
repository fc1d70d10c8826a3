"""Every kind of gradient comes back in its dtype, shape and device."""

import gc
import weakref

import horovod.torch as hvd
import pytest
import torch
from rig import assert_is_mean, backward, finish_step, gradient, make_optimizer, make_parameters

from hvd_gqsgd.schemes.cutting import BUCKET_BYTES
from hvd_gqsgd.torch import GlobalQSGD, traffic

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [None, 1])
def test_dtypes_under_the_optimizer(dtype, groups):
    parameters = make_parameters(dtype=dtype)
    optimizer = make_optimizer(parameters, groups=groups)
    for step in range(3):
        backward(parameters, step)
        optimizer.synchronize()
        for name, parameter in parameters.items():
            assert parameter.grad.dtype == dtype
            assert_is_mean(parameter.grad, name, step=step)
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()


def test_bfloat16_parameters_train():
    # Horovod alone refuses them.
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)).to(torch.bfloat16)
    hvd.broadcast_parameters({k: v.float() for k, v in model.state_dict().items()}, root_rank=0)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.05), model.named_parameters(), compression=GlobalQSGD
    )
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(hvd.rank())).to(torch.bfloat16)
    y = x[:, :1] * 2
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    for name, value in model.state_dict().items():
        same = hvd.allreduce(value.float(), name=f"same.{name}", op=hvd.Max)
        assert torch.equal(same, value.float()), name


def test_mixed_dtypes_in_one_bucket():
    parameters = {str(dtype): torch.nn.Parameter(torch.zeros(1500, dtype=dtype)) for dtype in DTYPES}
    optimizer = make_optimizer(parameters)
    backward(parameters)
    optimizer.synchronize()
    for name, parameter in parameters.items():
        assert_is_mean(parameter.grad, name)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_memory_formats(memory_format):
    # Horovod alone refuses what is not contiguous.
    shape = (4, 16, 8, 8)
    parameter = torch.nn.Parameter(torch.zeros(shape).to(memory_format=memory_format))
    optimizer = make_optimizer({"w": parameter})
    for step in range(2):
        given = gradient("w", shape, hvd.rank(), step).to(memory_format=memory_format)
        (parameter * given).sum().backward()
        optimizer.synchronize()
        assert parameter.grad.shape == shape
        assert_is_mean(parameter.grad, "w", step=step)
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()


def test_the_gradients_own_memory_is_used():
    parameters = make_parameters({"w": (4000,)})
    optimizer = make_optimizer(parameters)
    for step in range(2):
        backward(parameters, step)
        where = parameters["w"].grad.data_ptr()
        optimizer.synchronize()
        assert parameters["w"].grad.data_ptr() == where
        with optimizer.skip_synchronize():
            optimizer.step()


def sparse_gradient(rank, step):
    embedding = torch.nn.Embedding(64, 32, sparse=True)
    torch.nn.init.zeros_(embedding.weight)
    rows = (torch.arange(6) * (rank + 2) + step) % 64
    (embedding(rows) * gradient("e", (6, 32), rank, step)).sum().backward()
    return embedding.weight.grad.to_dense()


@pytest.mark.parametrize("as_dense", [True, False])
def test_sparse_gradients(as_dense):
    embedding = torch.nn.Embedding(64, 32, sparse=True)
    torch.nn.init.zeros_(embedding.weight)
    parameters = {"e": embedding.weight, "w": torch.nn.Parameter(torch.zeros(2000))}
    optimizer = make_optimizer(parameters, sparse_as_dense=as_dense)
    for step in range(3):
        rows = (torch.arange(6) * (hvd.rank() + 2) + step) % 64
        loss = (embedding(rows) * gradient("e", (6, 32), hvd.rank(), step)).sum()
        (loss + (parameters["w"] * gradient("w", (2000,), hvd.rank(), step)).sum()).backward()
        optimizer.synchronize()
        assert embedding.weight.grad.is_sparse
        assert_is_mean(embedding.weight.grad.to_dense(), "e", make=lambda rank, s=step: sparse_gradient(rank, s))
        assert_is_mean(parameters["w"].grad, "w", step=step)
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()


def test_min_numel_decides_what_is_compressed(several):
    for min_numel, compressed in ((0, True), (2000, True), (2001, False)):
        parameters = make_parameters({"w": (2000,)})
        optimizer = make_optimizer(parameters, GlobalQSGD(min_numel=min_numel, bits=4))
        backward(parameters)
        optimizer.synchronize()
        exact = sum(gradient("w", (2000,), r).double() for r in range(several)) / several
        error = (parameters["w"].grad.double() - exact).abs().max()
        assert (error > 1e-3) == compressed


def test_traffic_counts_what_is_handed_to_horovod(several):
    parameters = make_parameters({"w": (65536,), "b": (100,)})
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=4))
    backward(parameters)
    optimizer.step()
    optimizer.zero_grad()
    traffic.reset()  # the first step also agrees on the settings
    backward(parameters)
    optimizer.step()
    words, norms, header, probe = 65536 // 8 * 4, 65536 // 256 * 4, 4 * 4, 4
    assert traffic.sent_bytes == words + norms + header + probe + 400
    assert traffic.dense_bytes == 65536 * 4 + 400
    assert traffic.ratio == pytest.approx(traffic.dense_bytes / traffic.sent_bytes)
    traffic.reset()
    assert traffic.ratio == 1.0


def test_nothing_keeps_gradients_or_optimizers_alive(several):
    parameters = make_parameters({"w": (4000,), "v": (3000,)})
    optimizer = make_optimizer(parameters)
    for step in range(3):
        backward(parameters, step)
        optimizer.step()
        gradients = [weakref.ref(p.grad.untyped_storage()) for p in parameters.values()]
        for parameter in parameters.values():
            parameter.grad = None
        assert not any(g() for g in gradients)
    watched = weakref.ref(optimizer)
    del optimizer, parameters, parameter
    gc.collect()
    assert watched() is None


def test_tensors_larger_than_a_bucket():
    shapes = {"small": (2000,), "large": (3 * BUCKET_BYTES // 8 + 3, 2), "other": (1500,)}
    parameters = make_parameters(shapes)
    optimizer = make_optimizer(parameters)
    for step in range(3):
        backward(parameters, step)
        finish_step(parameters, optimizer, step)


def test_allreduce_of_a_tensor_larger_than_a_bucket():
    shape = (3 * BUCKET_BYTES // 8 + 3,)
    given = gradient("x", shape, hvd.rank())
    kept = given.clone()
    for step in range(2):
        mean = hvd.allreduce(given, name=f"x{step}", compression=GlobalQSGD)
        assert_is_mean(mean, "x", make=lambda rank: gradient("x", shape, rank))
        assert torch.equal(given, kept)
