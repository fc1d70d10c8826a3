"""Reports of each step: the estimate is near the truth, bytes and blocks are counted, callbacks can do no harm."""

import math

import horovod.torch as hvd
import pytest
import torch
from rig import backward, gradient, make_optimizer, make_parameters

from hvd_gqsgd import telemetry
from hvd_gqsgd.torch import GlobalQSGD, traffic

SHAPES = {"conv": (8, 300), "dense": (70_000,), "bias": (10,)}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rotation", ["hadamard", None])
@pytest.mark.parametrize("dither", ["correlated", "independent", "nearest"])
def test_the_estimate_is_near_the_true_error(several, reports, bits, rotation, dither):
    parameters = make_parameters(SHAPES)
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=bits, rotation=rotation, dither=dither))
    backward(parameters)
    optimizer.synchronize()
    error = decoded = 0.0
    for name in ("conv", "dense"):
        exact = sum(gradient(name, SHAPES[name], r).double() for r in range(several)) / several
        error += float(((parameters[name].grad.double() - exact) ** 2).sum())
        decoded += float((parameters[name].grad.double() ** 2).sum())
    (report,) = reports
    assert report.relative_error == pytest.approx(math.sqrt(error / decoded), rel=0.25)
    assert report.operation == "DistributedOptimizer" and report.step == 0
    optimizer.zero_grad()


def test_bytes_blocks_and_steps_are_counted(several, reports):
    parameters = make_parameters({"w": (65536,), "b": (100,)})
    optimizer = make_optimizer(parameters, GlobalQSGD(bits=4))
    for step in range(3):
        backward(parameters, step)
        traffic.reset()
        optimizer.synchronize()
        with optimizer.skip_synchronize():
            optimizer.step()
        optimizer.zero_grad()
    assert [report.step for report in reports] == [0, 1, 2]
    words, norms, headers = 65536 // 8 * 4, 65536 // 256 * 4, 4 * 4
    assert {report.sent_bytes for report in reports} == {words + norms + headers}
    assert {report.dense_bytes for report in reports} == {65536 * 4}
    assert {report.blocks for report in reports} == {256}
    assert {report.nonfinite_blocks for report in reports} == {0}


def test_blocks_that_are_not_finite_are_counted_on_every_rank(several, reports):
    given = gradient("x", (2048,), hvd.rank())
    if hvd.rank() == 0:
        given[[5, 6, 1000]] = float("nan")
    hvd.allreduce(given, name="x", compression=GlobalQSGD)
    (report,) = reports
    assert report.operation == "allreduce of 'x'"
    assert (report.blocks, report.nonfinite_blocks) == (8, 2)
    assert math.isfinite(report.relative_error)
    given[:] = float("nan")
    hvd.allreduce(given, name="x", compression=GlobalQSGD)
    assert reports[-1].nonfinite_blocks == 8 and math.isnan(reports[-1].relative_error)


def test_zeros_have_no_error(several, reports):
    hvd.allreduce(torch.zeros(2048), name="x", compression=GlobalQSGD)
    assert reports[-1].relative_error == 0


def test_reports_change_no_result(several, reports):
    def run():
        parameters = make_parameters(SHAPES)
        optimizer = make_optimizer(parameters, GlobalQSGD(bits=4, seed=9))
        backward(parameters)
        optimizer.step()
        return parameters["dense"].detach().clone()

    with_reports = run()
    callbacks, telemetry._callbacks[:] = list(telemetry._callbacks), []
    assert torch.equal(run(), with_reports)
    telemetry._callbacks[:] = callbacks


def test_a_callback_that_raises_is_warned_about_and_not_called_again(several):
    calls = []

    def broken(report):
        calls.append(report)
        raise RuntimeError("disk full")

    telemetry.subscribe(broken)
    for _ in range(2):
        if not calls:
            with pytest.warns(UserWarning, match="broken.*disk full.*not called any more"):
                hvd.allreduce(torch.ones(2048), name="x", compression=GlobalQSGD)
        else:
            hvd.allreduce(torch.ones(2048), name="x", compression=GlobalQSGD)
    assert len(calls) == 1 and not telemetry.active()


def test_tensorboard_gets_scalars(several, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        stop = telemetry.subscribe(telemetry.to_tensorboard(writer))
        parameters = make_parameters({"w": (4096,)})
        optimizer = make_optimizer(parameters)
        for step in range(2):
            backward(parameters, step)
            optimizer.step()
            optimizer.zero_grad()
        hvd.allreduce(torch.ones(2048), name="x", compression=GlobalQSGD)
        stop()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    names = ("relative_error", "sent_bytes", "compression_ratio", "nonfinite_blocks", "bits")
    assert tags == {f"compression{inner}/{name}" for inner in ("", "/allreduce of 'x'") for name in names}
    assert [event.step for event in events.Scalars("compression/relative_error")] == [0, 1]
    assert 3 < events.Scalars("compression/compression_ratio")[0].value < 4
