"""What a user's own code does around the exchange: other collectives, threads, given-up steps, wrappers, compilers."""

import threading
import time

import horovod.torch as hvd
import pytest
import torch
from rig import assert_is_mean, backward, finish_step, gradient, level_of, make_optimizer, make_parameters

from hvd_gqsgd.errors import DisagreementError
from hvd_gqsgd.schemes.agreement import Statement
from hvd_gqsgd.torch import GlobalQSGD
from hvd_gqsgd.torch.agreement import Parties

#: Each is a bucket of its own.
LARGE = {"first": (2_200_000,), "second": (2_200_000,), "third": (2_200_000,)}


@pytest.mark.even_handles
def test_operations_without_a_name_between_backward_and_step(several):
    # Horovod names them by counting handles, so no rank may have started more than another, however late it is.
    parameters = make_parameters(LARGE)
    optimizer = make_optimizer(parameters)
    for step in range(3):
        if hvd.rank() == 1:
            time.sleep(0.1)
        for name in LARGE:
            backward(parameters, step, names=[name])
            if hvd.rank() == 0:
                time.sleep(0.2)
        loss = hvd.allreduce(torch.tensor([float(hvd.rank())]))
        assert loss.item() == pytest.approx((several - 1) / 2)
        finish_step(parameters, optimizer, step)


class _Late(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if hvd.rank() == 0:
            time.sleep(0.2)
        return gradient


@pytest.mark.even_handles
def test_collectives_without_a_name_inside_the_backward_pass(several):
    # As contrastive losses have them: hvd.allgather's gradient is an unnamed allreduce.
    torch.manual_seed(0)
    low, middle, top = torch.nn.Linear(8, 1500), torch.nn.Linear(1500, 1500), torch.nn.Linear(1500, 1500)
    model = torch.nn.ModuleList([low, middle, top])
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), model.named_parameters(), compression=GlobalQSGD
    )
    for _ in range(3):
        embeddings = hvd.allgather(low(torch.ones(4, 8)), name="embeddings")
        top(_Late.apply(middle(embeddings))).sum().backward()
        optimizer.step()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.zero_grad()


@pytest.mark.parametrize("given_up", [["w"], ["v"], ["w", "v"]])
def test_load_state_dict_in_the_middle_of_a_step(given_up):
    parameters = make_parameters({"w": (3000,), "v": (2000,)})
    optimizer = make_optimizer(parameters)
    backward(parameters, 0)
    finish_step(parameters, optimizer, 0)
    backward(parameters, 1, names=given_up)
    hvd.allreduce(torch.zeros(1), name="let what was started end")
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    for step in (2, 3, 4):
        backward(parameters, step)
        finish_step(parameters, optimizer, step)


def test_optimizers_in_threads(several):
    failures = []

    def train(name):
        try:
            parameters = make_parameters({name: (3000,)})
            optimizer = make_optimizer(parameters)
            for step in range(5):
                time.sleep(0.01 * ((hvd.rank() + len(name)) % 2))
                backward(parameters, step)
                finish_step(parameters, optimizer, step)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "bb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_direct_calls_in_threads_in_another_order_on_every_rank(several):
    results = {}

    def reduce(name, wait):
        time.sleep(wait)
        results[name] = hvd.allreduce(gradient(name, (3000,), hvd.rank()), name=name, compression=GlobalQSGD)

    threads = [
        threading.Thread(target=reduce, args=(name, 0.05 * ((hvd.rank() + i) % 3))) for i, name in enumerate("abc")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "abc":
        assert_is_mean(results[name], name)


class Wrapper:
    """A user's compressor that does something of its own around ours."""

    def __init__(self, inner):
        self.inner = inner

    def compress(self, tensor):
        return self.inner.compress(tensor.clone())

    def decompress(self, tensor, ctx):
        return self.inner.decompress(tensor, ctx)


@pytest.mark.parametrize("groups", [None, 1])
def test_a_compressor_that_wraps_ours(groups):
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, Wrapper(GlobalQSGD), groups=groups)
    for step in range(2):
        backward(parameters, step)
        finish_step(parameters, optimizer, step)


def test_torch_compile_around_horovod():
    parameters = make_parameters({"w": (3000,)})
    optimizer = make_optimizer(parameters)
    step_ = torch.compile(optimizer.step, backend="eager")
    allreduce = torch.compile(lambda x: hvd.allreduce(x, name="c", compression=GlobalQSGD) + 0, backend="eager")
    before = parameters["w"].detach().clone()
    for step in range(2):
        backward(parameters, step)
        step_()
        moved, before = before - parameters["w"].detach(), parameters["w"].detach().clone()
        assert_is_mean(moved, "w", step=step)
        optimizer.zero_grad()
        assert_is_mean(allreduce(gradient("x", (3000,), hvd.rank(), step)), "x", step=step)


def test_a_result_may_be_changed_in_place():
    x = gradient("x", (3000,), hvd.rank()).requires_grad_()
    y = hvd.allreduce(x, name="y", compression=GlobalQSGD(rotation=None))
    y.mul_(2)
    y.sum().backward()
    assert torch.allclose(x.grad, torch.full_like(x, 2.0))
    assert_is_mean(y.detach(), "x", scale=2.0)


def test_what_differs_is_found_in_a_model_of_any_size(several):
    names = [f"transformer.encoder.layers.{i}.self_attn.weight" for i in range(3000)]
    tensors = [f"{name} [{1024 + (hvd.rank() == 1 and name == names[2998])}] float32 cpu" for name in names]
    parties = Parties(hvd.global_process_set, "test", "the operation")
    statement = Statement.of(GlobalQSGD(), tensors)
    with pytest.raises(DisagreementError) as caught:
        parties.agree(statement)
    assert "the operation" in str(caught.value)
    assert f"rank 1 got {names[2998]} [1025]" in str(caught.value)
    assert names[0] not in str(caught.value)


@pytest.mark.parametrize("numel", [500, 5000])
def test_a_small_parameter_stays_horovods_when_every_rank_changes_it(several, numel):
    parameters = make_parameters({"w": (3000,), "b": (10,)})
    optimizer = make_optimizer(parameters)
    backward(parameters, 0)
    finish_step(parameters, optimizer, 0)
    parameters["b"].grad = None
    parameters["b"].data = torch.zeros(numel)
    parameters["b"].grad = gradient("b", (numel,), hvd.rank())
    backward(parameters, 1, names=["w"])
    optimizer.synchronize()
    exact = sum(gradient("b", (numel,), rank).double() for rank in range(several)) / several
    assert torch.allclose(parameters["b"].grad.double(), exact, atol=1e-6)
    values = [gradient("w", (3000,), rank, 1) for rank in range(several)]
    error = (parameters["w"].grad - sum(v.double() for v in values) / several).abs()
    assert (error <= level_of(values) + 1e-6).all()


def test_a_parameter_that_shrinks_below_min_numel_on_one_rank(several):
    parameters = make_parameters({"w": (3000,), "v": (2000,)})
    optimizer = make_optimizer(parameters)
    backward(parameters, 0)
    finish_step(parameters, optimizer, 0)
    if hvd.rank() == 0:
        parameters["v"].grad = None
        parameters["v"].data = torch.zeros(500)
    parameters["v"].grad = torch.ones_like(parameters["v"].data)
    backward(parameters, 1, names=["w"])
    with pytest.raises(DisagreementError, match=r"rank 0: parameter 'v' changed.*expected v \[2000\].*got v \[500\]"):
        optimizer.synchronize()
