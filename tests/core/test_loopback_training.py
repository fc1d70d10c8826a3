"""Trainings of n workers in one process: what they average, what they count, whose memory is whose."""

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import loopback_training, training_cells
from benchmarks.compressions import COMPRESSIONS, lane_bits, seeded, settings_of
from benchmarks.loopback_training import HorovodAverage, LoopbackAverage, average_by
from benchmarks.workloads.small import Metric, Task
from benchmarks.workloads.small.base import draw_of, schedule_of
from hvd_gqsgd.schemes import GlobalQSGD
from hvd_gqsgd.torch.plan import Spec

INPUTS, OUTPUTS = 64, 32
#: The bias is below min_numel.
WEIGHTS, SMALL = INPUTS * OUTPUTS, OUTPUTS
STEPS = 30


class Lines(Task):
    """Least squares with a bias; keeps the model that it evaluated."""

    name, steps, rates, metrics = "lines", STEPS, {"sgd": 0.5}, (Metric("loss"),)

    def model(self):
        return nn.Linear(INPUTS, OUTPUTS)

    def batch(self, draw):
        inputs = torch.randn(16, INPUTS, generator=draw)
        return inputs, inputs[:, :OUTPUTS] + 1

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    def evaluate(self, model):
        self.trained = model
        return {"loss": self.loss(model, self.batch(torch.Generator().manual_seed(99))).item()}

    def references(self):
        return {}


def run(compression, workers=2, steps=STEPS, task=None):
    return loopback_training.train(task or Lines(), "sgd", compression, 3, steps, workers=workers)


def test_none_is_the_training_with_the_mean_of_the_gradients():
    task = Lines()
    done = run(COMPRESSIONS["none"], task=task)
    torch.manual_seed(3)
    model = task.model()
    optimizer = task.optimizer("sgd", model.parameters())
    schedule, draws = schedule_of(optimizer, STEPS), [draw_of(3, rank) for rank in range(2)]
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = sum(task.loss(model, task.batch(draw)) for draw in draws) / 2
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    for trained, expected in zip(task.trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(trained, expected)
    np.testing.assert_allclose(done.losses, losses, rtol=1e-5)
    assert done.sent_bytes == STEPS * 4 * (WEIGHTS + SMALL)


def test_fp16_is_summed_in_half_precision():
    rows = [{"w": torch.full((3,), value)} for value in (2048.0, 1.0, 1.0)]
    assert HorovodAverage(COMPRESSIONS["fp16"])(rows) == 6
    # 2048 + 1 is 2048 in half precision, twice.
    assert rows[0]["w"].tolist() == [float(torch.tensor(2048 / 3).half())] * 3
    assert rows[1]["w"].tolist() == [1.0] * 3


def test_the_ring_converges_and_its_bytes_are_words_norms_and_small_tensors():
    none, done = run(COMPRESSIONS["none"], workers=3), run(GlobalQSGD(bits=8), workers=3)
    assert done.metrics["loss"] == pytest.approx(none.metrics["loss"], rel=0.05)
    assert done.losses[-1] < 0.5 * done.losses[0]
    assert done.sent_bytes == STEPS * (WEIGHTS + 4 + 4 * (WEIGHTS // 256) + 12 + 4 * SMALL)


def test_a_scheme_on_the_host_converges_and_its_bytes_are_those_of_an_allreduce():
    none, done = run(COMPRESSIONS["none"], workers=3), run(COMPRESSIONS["gqsgd8 two-phase"], workers=3)
    assert done.metrics["loss"] == pytest.approx(none.metrics["loss"], rel=0.05)
    # Of 8 blocks rank 0 adds up 2: half the words it hands round, and 3 / 2 of its share of the mean, with its norms.
    norms, parcels, gathered = 4 * (8 + 3 + 3), WEIGHTS // 2, 4 * 2 * (64 + 1) * 3 // 2
    assert done.sent_bytes == STEPS * (norms + parcels + gathered + 4 * SMALL)


def test_feedback_is_each_workers_own():
    average = LoopbackAverage(GlobalQSGD(bits=3, error_feedback=True, min_numel=0), [_spec(512)], 2)
    rows = _rows(512)
    sums = [row["w"].clone() for row in rows]
    average(rows)
    left = [state.residuals["w"] for state in average.states]
    assert not torch.equal(*left)
    # What was to be sent is what was sent and what is left.
    torch.testing.assert_close(rows[0]["w"] + (left[0] + left[1]) / 2, (sums[0] + sums[1]) / 2, atol=1e-5, rtol=0)
    assert [state.step for state in average.states] == [1, 1]


def test_memories_of_a_scheme_on_the_host_are_each_workers_own_and_kept():
    average = LoopbackAverage(_Remembering(min_numel=0), [_spec(512), Spec.of("v", torch.zeros(4, 5))], 2)
    for step in range(2):
        rows = _rows(512, seed=step)
        for row in rows:
            row["v"] = row["w"][:20].clone()
        firsts = [float(row["w"][0]) for row in rows]
        average(rows)
        assert [state.memories["w"][1]["seen"][step] for state in average.states] == firsts
    assert [set(state.memories) for state in average.states] == [{"w", "v"}] * 2


def test_every_compression_is_served_and_seeded_where_it_has_a_seed():
    model = Lines().model()
    for name, compression in COMPRESSIONS.items():
        again = seeded(compression, 5)
        assert getattr(again, "seed", 5) == 5
        average_by(again, model, 2)
        assert "Compression" in settings_of(name) or settings_of(name) == repr(compression)
    assert (lane_bits("gqsgd4 two-phase"), lane_bits("fp16")) == (4, None)


def test_a_cell_has_the_bytes_of_a_step_over_all_seeds(tmp_path, monkeypatch):
    monkeypatch.setitem(training_cells.TASKS, "lines", Lines())
    path = tmp_path / "cells.json"
    path.write_text(json.dumps({"cells": []}))
    asked = {"model": "lines", "optimizer": "sgd", "rate": 0.1, "seeds": [0, 1], "steps": 4}
    cells = [{**asked, "compression": name} for name in ("fp16", "gqsgd4")]
    training_cells.run(cells, path, partial(loopback_training.train, workers=2))
    fp16, gqsgd4 = json.loads(path.read_text())["cells"]
    assert fp16["sent_bytes"] == 2 * (WEIGHTS + SMALL) and "bits" not in fp16
    assert gqsgd4["sent_bytes"] == WEIGHTS // 2 + 4 + 4 * 8 + 12 + 4 * SMALL and gqsgd4["bits"] == 4
    assert len(gqsgd4["metrics"]["loss"]) == 2 and gqsgd4["curve"]["step"] == [1, 2, 3, 4]


@dataclass(frozen=True, kw_only=True)
class _Remembering(GlobalQSGD):
    """Keeps the first element of every tensor of every step."""

    exchange: str = "two_phase"

    def collectives(self, bucket, kernels, world, *, valid=True):
        for kept, tensor in zip(bucket.memory, bucket.tensors, strict=True):
            kept["seen"] = np.append(kept.get("seen", np.empty(0, np.float32)), tensor[:1])
        return super().collectives(bucket, kernels, world, valid=valid)


def _rows(numel, seed=0):
    draws = [draw_of(seed, rank) for rank in range(2)]
    return [{"w": torch.randn(numel, generator=draw)} for draw in draws]


def _spec(numel):
    return Spec.of("w", torch.zeros(numel))
