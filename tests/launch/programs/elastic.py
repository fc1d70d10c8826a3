"""Trains until the world has been resized as often as asked; every gradient is checked against the exact mean.

elastic.py FOLDER     writes FOLDER/sizes, one line for each size that rank 0 saw
"""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.torch as hvd
import torch
from rig import backward, finish_step, make_parameters

from hvd_gqsgd.torch import GlobalQSGD

FOLDER = Path(sys.argv[1])
PLANNED = [2, 3, 2]
parameters = make_parameters()
model = torch.nn.ParameterDict(parameters)


def train(state: hvd.elastic.TorchState) -> None:
    while len(state.sizes) <= len(PLANNED):
        if not state.sizes or state.sizes[-1] != hvd.size():
            state.sizes = [*state.sizes, hvd.size()]
            if hvd.rank() == 0:
                (FOLDER / "sizes").write_text(" ".join(map(str, state.sizes)))
        if state.sizes == PLANNED:
            return
        for _ in range(20):
            backward(parameters, state.step)
            finish_step(parameters, state.optimizer, state.step)
            state.step += 1
        if hvd.rank() == 0:
            # The discovery script reads how far the training has come.
            (FOLDER / "resizes").write_text(str(len(state.sizes)))
        state.commit()


if __name__ == "__main__":
    hvd.init()
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.0), model.named_parameters(), compression=GlobalQSGD
    )
    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, step=0, sizes=[])
    hvd.elastic.run(train)(state)
