"""Trains until the world has been resized as often as asked; every gradient is checked against the exact mean.

elastic.py FOLDER [feedback|SCHEME]    writes FOLDER/sizes, the sizes that rank 0 saw, and with error feedback
                                       FOLDER/kept, how often it began a new world with something left over from the
                                       one before; of one of schemes.py, all ranks have to have the same gradients
"""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.torch as hvd
import torch
from rig import backward, finish_step, gradient, make_parameters
from schemes import schemes_of

import hvd_gqsgd.torch
from hvd_gqsgd.torch import GlobalQSGD

FOLDER = Path(sys.argv[1])
MODE = sys.argv[2] if len(sys.argv) > 2 else "plain"
SCHEMES = schemes_of(hvd_gqsgd.torch).every
COMPRESSION = {
    "plain": GlobalQSGD,
    "feedback": lambda seed: GlobalQSGD(bits=4, error_feedback=True, seed=seed),
    **SCHEMES,
}[MODE](seed=0)
PLANNED = [2, 3, 2]
parameters = make_parameters()
model = torch.nn.ParameterDict(parameters)


def left_over() -> dict[str, torch.Tensor]:
    """What this rank has not sent yet, by parameter."""
    optimizers = COMPRESSION.state_dict()["optimizers"]
    return optimizers[0]["residuals"] if optimizers else {}


def finish_with_feedback(optimizer: hvd.DistributedOptimizer, step: int) -> None:
    """Synchronise; what was sent and is left is the gradient and what was left before, in the mean of all ranks."""
    before = left_over()
    optimizer.synchronize()
    after = left_over()
    for name, parameter in parameters.items():
        wanted = gradient(name, parameter.shape, hvd.rank(), step).flatten()
        if name in after:
            wanted = wanted + before.get(name, 0) - after[name]
        mean = hvd.allreduce(wanted, name=f"wanted.{name}").view(parameter.shape)
        assert torch.allclose(parameter.grad, mean, atol=1e-4), name
    with optimizer.skip_synchronize():
        optimizer.step()
    optimizer.zero_grad()


def finish_alike(optimizer: hvd.DistributedOptimizer) -> None:
    """Synchronise; all ranks have the same finite gradients, those that came later too."""
    optimizer.synchronize()
    for name, parameter in parameters.items():
        everyone = hvd.allgather(parameter.grad[None], name=f"alike.{name}")
        assert everyone.isfinite().all() and (everyone == everyone[:1]).all(), name
    with optimizer.skip_synchronize():
        optimizer.step()
    optimizer.zero_grad()


def train(state: hvd.elastic.TorchState) -> None:
    while len(state.sizes) <= len(PLANNED):
        if not state.sizes or state.sizes[-1] != hvd.size():
            state.sizes = [*state.sizes, hvd.size()]
            if hvd.rank() == 0:
                (FOLDER / "sizes").write_text(" ".join(map(str, state.sizes)))
                with (FOLDER / "kept").open("a") as kept:
                    kept.write("x" * any(bool(left.any()) for left in left_over().values()))
        if state.sizes == PLANNED:
            return
        for _ in range(20):
            backward(parameters, state.step)
            if MODE == "feedback":
                finish_with_feedback(state.optimizer, state.step)
            elif MODE in SCHEMES:
                finish_alike(state.optimizer)
            else:
                finish_step(parameters, state.optimizer, state.step)
            state.step += 1
        if hvd.rank() == 0:
            # The discovery script reads how far the training has come.
            (FOLDER / "resizes").write_text(str(len(state.sizes)))
        state.commit()


if __name__ == "__main__":
    hvd.init()
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), model.named_parameters(), compression=COMPRESSION
    )
    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, step=0, sizes=[])
    hvd.elastic.run(train)(state)
