"""Trains until it is stopped; says where it runs and how far it has come."""

import socket

import horovod.torch as hvd
import torch

from hvd_gqsgd.torch import GlobalQSGD

hvd.init()
model = torch.nn.Linear(500, 500)
optimizer = hvd.DistributedOptimizer(
    torch.optim.SGD(model.parameters(), lr=0.01), model.named_parameters(), compression=GlobalQSGD
)
step = 0
while True:
    optimizer.zero_grad()
    model(torch.randn(8, 500)).square().mean().backward()
    optimizer.step()
    step += 1
    if step % 20 == 0:
        print(f"rank {hvd.rank()} of {hvd.size()} on {socket.gethostname()}: step {step}", flush=True)
