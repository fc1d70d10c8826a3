"""Wrong use is an error that says what is wrong, on every rank, and the next exchange works."""

import horovod.torch as hvd
import pytest
import torch
from rig import assert_is_mean, backward, gradient, level_of, make_optimizer, make_parameters

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.torch import GlobalQSGD


def still_works():
    parameters = make_parameters()
    optimizer = make_optimizer(parameters)
    backward(parameters)
    optimizer.synchronize()
    for name, parameter in parameters.items():
        assert_is_mean(parameter.grad, name)
    assert_is_mean(hvd.allreduce(gradient("x", (3000,), hvd.rank()), name="x", compression=GlobalQSGD), "x")


@pytest.mark.parametrize(
    ("usual", "odd"),
    [({"bits": 8}, {"bits": 4}), ({"block_size": 256}, {"block_size": 64}), ({"seed": 0}, {"seed": 1})],
)
def test_settings_that_differ_between_ranks(several, usual, odd):
    mine = GlobalQSGD(**(odd if hvd.rank() == 1 else usual))
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, mine)
    backward(parameters)
    with pytest.raises(DisagreementError, match="rank 1 got GlobalQSGD") as caught:
        optimizer.synchronize()
    for settings in (usual, odd):
        assert repr(GlobalQSGD(**settings)) in str(caught.value)
    still_works()
    with pytest.raises(DisagreementError, match="allreduce of 'x'.*rank 1 got GlobalQSGD"):
        hvd.allreduce(gradient("x", (3000,), hvd.rank()), name="x", compression=mine)
    still_works()


@pytest.mark.parametrize("groups", [None, 1])
def test_min_numel_that_differs_between_ranks(several, groups):
    # Some tensors are compressed on one rank and not on the other.
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(min_numel=2000 if hvd.rank() == 1 else 1024), groups=groups)
    backward(parameters)
    with pytest.raises(DisagreementError, match=r"rank 1 got GlobalQSGD\(.*min_numel=2000"):
        optimizer.synchronize()
    still_works()


def test_shapes_that_differ_between_ranks(several):
    shapes = {"w": (3000,), "v": (2000, 2) if hvd.rank() == 0 else (4000,)}
    parameters = make_parameters(shapes)
    optimizer = make_optimizer(parameters)
    backward(parameters)
    with pytest.raises(DisagreementError, match=r"rank 0 got v \[2000, 2\] float32") as caught:
        optimizer.synchronize()
    assert "w [3000]" not in str(caught.value)
    still_works()
    for numel in (3000 + hvd.rank(), 3000 + 1000 * hvd.rank()):  # as many blocks, and more of them
        with pytest.raises(DisagreementError, match=r"allreduce of 'x'.*rank 1 got x \[\d+\] float32"):
            hvd.allreduce(torch.ones(numel), name="x", compression=GlobalQSGD)
        still_works()


@pytest.mark.parametrize("which", ["every rank", "the last rank"])
def test_a_parameter_that_changed_its_shape(several, which):
    parameters = make_parameters({"w": (3000,), "v": (2000,)})
    optimizer = make_optimizer(parameters)
    backward(parameters)
    optimizer.step()
    optimizer.zero_grad()
    parameter = parameters["v"]
    if which == "every rank" or hvd.rank() == several - 1:
        # In place, as when a vocabulary grows: Horovod keeps its hook on the parameter.
        parameter.grad = None
        parameter.data = torch.zeros(2500)
    backward(parameters, names=["w"])
    parameter.grad = torch.ones_like(parameter.data)
    said = r"parameter 'v' changed between steps: expected v \[2000\] float32 cpu, got v \[2500\] float32 cpu"
    kind = SettingsError if which == "every rank" else DisagreementError
    with pytest.raises(kind, match=said):
        optimizer.synchronize()
    still_works()


def test_too_many_ranks_for_the_bits(several):
    parameters = make_parameters()
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=2))
    backward(parameters)
    said = rf"bits=2\) on {several} ranks.*write bits=3"
    with pytest.raises(SettingsError, match=said):
        optimizer.synchronize()
    with pytest.raises(SettingsError, match=said):
        hvd.allreduce(torch.ones(3000), name="x", compression=GlobalQSGD(bits=2))
    still_works()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_bad_element_on_one_rank_is_nan_on_all_in_its_block_alone(bad, dtype):
    parameters = make_parameters({"w": (3000,), "v": (2000,)}, dtype=dtype)
    optimizer = make_optimizer(parameters)
    last = hvd.size() - 1
    given = gradient("w", (3000,), hvd.rank(), dtype=dtype)
    if hvd.rank() == last:
        given[1000] = bad
    loss = (parameters["w"] * given).sum() + (parameters["v"] * gradient("v", (2000,), hvd.rank(), dtype=dtype)).sum()
    loss.backward()
    optimizer.synchronize()
    assert_is_mean(parameters["v"].grad, "v")
    block = slice(768, 1024) if hvd.size() > 1 else slice(1000, 1001)  # a world of one compresses nothing
    result = parameters["w"].grad
    assert not result[block].isfinite().any()
    if hvd.size() > 1:
        assert result[block].isnan().all()
    result[block] = 0

    def without_the_block(rank):
        values = gradient("w", (3000,), rank, dtype=dtype)
        values[block] = 0
        return values

    assert_is_mean(result, "w", make=without_the_block)


def test_grad_scaler_skips_the_same_step_on_every_rank():
    parameters = make_parameters({"w": (3000,)})
    optimizer = make_optimizer(parameters)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1000)
    for step in range(3):
        given = gradient("w", (3000,), hvd.rank(), step)
        if step == 1 and hvd.rank() == 0:
            given[7] = float("inf")
        before = parameters["w"].detach().clone()
        scaler.scale((parameters["w"] * given).sum()).backward()
        optimizer.synchronize()
        scaler.unscale_(optimizer)
        with optimizer.skip_synchronize():
            scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        moved = (before - parameters["w"].detach()).double()
        if step == 1:
            assert not moved.any()
        else:
            values = [gradient("w", (3000,), r, step) for r in range(hvd.size())]
            mean = sum(v.double() for v in values) / len(values)
            assert ((moved - mean).abs() <= level_of(values) + 1e-5).all()
    assert scaler.get_scale() == 128.0
