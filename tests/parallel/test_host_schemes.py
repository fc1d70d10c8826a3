"""Schemes on the host keep the same contract as Global-QSGD over a ring: these tests run for each of them."""

import copy

import horovod.torch as hvd
import pytest
import torch
from rig import SHAPES, backward, gradient, make_optimizer, make_parameters, run, uninterrupted_and_resumed
from schemes import TWO_PHASE, schemes_of

import hvd_gqsgd.torch
from hvd_gqsgd.errors import DisagreementError, UnsupportedError
from hvd_gqsgd.schemes.cutting import BUCKET_BYTES

UNBIASED, HOST = schemes_of(hvd_gqsgd.torch)
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def everywhere(tensor, name="everywhere"):
    """Whether all ranks have the same tensor, NaN alike."""
    all_of_them = hvd.allgather(tensor[None].contiguous().float(), name=name)
    return torch.equal(all_of_them.nan_to_num(7e9), all_of_them[:1].expand_as(all_of_them).nan_to_num(7e9))


def relative_error(result, name, step=0, scale=1.0):
    exact = sum(gradient(name, result.shape, r, step).to(result.dtype).double() for r in range(hvd.size())) / hvd.size()
    return float((result.double() / scale - exact).norm() / exact.norm())


@pytest.mark.parametrize("op, scale", [(hvd.Average, 1), (hvd.Sum, None)], ids=["Average", "Sum"])
@pytest.mark.parametrize("key", UNBIASED)
def test_the_mean_within_its_error(several, key, op, scale):
    compression, bound = UNBIASED[key]
    parameters = make_parameters(SHAPES)
    optimizer = make_optimizer(parameters, compression(seed=301), op=op)
    for step in range(3):
        backward(parameters, step)
        optimizer.synchronize()
        for name, parameter in parameters.items():
            error = relative_error(parameter.grad, name, step, scale or several)
            assert error < (bound if parameter.numel() >= 1024 else 1e-6), (name, step, error)
            assert everywhere(parameter.grad)
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("key", HOST)
def test_every_dtype_comes_back_in_its_shape(several, key, dtype):
    given = gradient("x", (3, 700), hvd.rank(), dtype=dtype)
    before = given.clone()
    result = hvd.allreduce(given, name=f"x.{dtype}", compression=HOST[key](seed=302))
    assert result.dtype == dtype and result.shape == given.shape
    assert torch.equal(given, before)
    assert result.isfinite().all() and everywhere(result)


@pytest.mark.parametrize("key", HOST)
def test_a_tensor_larger_than_a_bucket(several, key):
    parameters = make_parameters({"large": (BUCKET_BYTES // 4 + 3,), "w": (3000,)})
    optimizer = make_optimizer(parameters, HOST[key](seed=303))
    run(parameters, optimizer, 2)
    for parameter in parameters.values():
        assert parameter.detach().isfinite().all() and parameter.detach().abs().max() > 0
        assert everywhere(parameter.detach())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", HOST)
def test_what_is_not_finite_on_one_rank_is_nan_on_all_and_gone_in_the_next_step(several, key, bad):
    parameters = make_parameters({"w": (2048,), "v": (3000,)})
    optimizer = make_optimizer(parameters, HOST[key](seed=304))
    run(parameters, optimizer, 2)
    given = gradient("w", (2048,), hvd.rank(), 3)
    if hvd.rank() == several - 1:
        given[300] = bad
    loss = (parameters["w"] * given).sum() + (parameters["v"] * gradient("v", (3000,), hvd.rank(), 3)).sum()
    loss.backward()
    optimizer.synchronize()
    assert parameters["w"].grad[300].isnan()
    assert everywhere(parameters["w"].grad) and parameters["v"].grad.isfinite().all()
    optimizer.zero_grad()
    for step in (4, 5):
        backward(parameters, step)
        optimizer.synchronize()
        for parameter in parameters.values():
            assert parameter.grad.isfinite().all() and everywhere(parameter.grad)
        optimizer.zero_grad()


@pytest.mark.parametrize("load_first", [True, False])
@pytest.mark.parametrize("key", HOST)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(several, key, load_first):
    compression, shapes = HOST[key](seed=305 + 1000 * load_first), {"w": (3000,), "conv": (8, 3, 5, 10)}
    uninterrupted, resumed = uninterrupted_and_resumed(compression, shapes, 5, load_first)
    for name, parameter in resumed.items():
        assert torch.equal(parameter, uninterrupted[name]), name


@pytest.mark.parametrize("key", HOST)
def test_a_rank_with_a_state_of_its_own_never_makes_ranks_differ(several, key):
    compression = HOST[key](seed=306)
    parameters = make_parameters({"w": (3000,), "conv": (8, 3, 5, 10)})
    optimizer = make_optimizer(parameters, compression)
    start = copy.deepcopy(compression.state_dict())
    run(parameters, optimizer, 5)
    if hvd.rank() == 0:
        start["optimizers"] = [
            {"parameters": entry["parameters"], "step": 0, "residuals": {}, "memories": {}}
            for entry in compression.state_dict()["optimizers"]
        ]
        compression.load_state_dict(start)
    for step in range(5, 9):
        backward(parameters, step)
        try:
            optimizer.synchronize()
        except DisagreementError:
            told = 1
        else:
            told = 0
            assert all(everywhere(p.grad) and p.grad.isfinite().all() for p in parameters.values())
        assert hvd.allreduce(torch.tensor([float(told)]), name="told").item() in (0, 1)
        optimizer.zero_grad()
        if told:
            break


@pytest.mark.parametrize("key", HOST)
def test_other_settings_on_one_rank_are_an_error_on_every_rank(several, key):
    parameters = make_parameters({"w": (3000,)})
    optimizer = make_optimizer(parameters, HOST[key](seed=307 + (hvd.rank() == 0)))
    backward(parameters)
    with pytest.raises(DisagreementError, match="expected the same compression settings on every rank"):
        optimizer.synchronize()


@pytest.mark.parametrize("key", HOST)
def test_parameters_without_gradients_on_some_ranks(several, key):
    parameters = make_parameters({"w": (3000,), "v": (2048,), "conv": (8, 300)})
    optimizer = make_optimizer(parameters, HOST[key](seed=309))
    for step in range(4):
        names = ["w", "v", "conv"] if step % 2 else (["w", "v"] if hvd.rank() == 0 else ["v", "conv"])
        backward(parameters, step, names)
        optimizer.synchronize()
        for parameter in parameters.values():
            assert everywhere(parameter.grad) and parameter.grad.isfinite().all()
        optimizer.zero_grad()


@pytest.mark.parametrize("key", HOST)
def test_process_sets_and_groups(several, key):
    process_set = hvd.add_process_set(range(1, several))
    try:
        if process_set.included():
            given = gradient("x", (3000,), hvd.rank())
            result = hvd.allreduce(given, name="x", compression=HOST[key](seed=310), process_set=process_set)
            assert result.isfinite().all()
        pair = [gradient(name, (2000,), hvd.rank()) for name in ("a", "b")]
        results = hvd.grouped_allreduce(pair, name="pair", compression=HOST[key](seed=310))
        assert all(everywhere(result) for result in results)
    finally:
        hvd.remove_process_set(process_set)


@pytest.mark.parametrize("key", TWO_PHASE)
@pytest.mark.parametrize("steps_before", [1, 3])
def test_a_rank_that_has_joined_is_an_error_on_the_others(several, key, steps_before):
    parameters = make_parameters({"w": (3000,)})
    optimizer = make_optimizer(parameters, HOST[key](seed=311))
    run(parameters, optimizer, steps_before)
    if hvd.rank() == 0:
        hvd.join()
        return
    backward(parameters, 9)
    with pytest.raises(UnsupportedError, match=f"after hvd.join: expected all {several} ranks, got {several - 1};"):
        optimizer.synchronize()
    hvd.join()
