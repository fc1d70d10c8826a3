"""A small convolutional net on scikit-learn's digits, trained by several ranks.

    horovodrun -np 2 python examples/torch_digits.py --compression gqsgd --bits 4

What differs from a Horovod script without compression is the argument ``compression=`` alone.
"""

from __future__ import annotations

import time
from argparse import Namespace

import digits
import horovod.torch as hvd
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

import hvd_gqsgd.torch as gqsgd


def make_data(seed: int) -> tuple[TensorDataset, TensorDataset]:
    train_x, train_y, test_x, test_y = map(torch.from_numpy, digits.make_data(seed))
    return TensorDataset(train_x[:, None], train_y), TensorDataset(test_x[:, None], test_y)


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def accuracy_of(model: nn.Module, data: TensorDataset) -> float:
    images, labels = data.tensors
    with torch.no_grad():
        return (model(images).argmax(dim=1) == labels).float().mean().item()


def make_optimizer(args: Namespace, model: nn.Module) -> torch.optim.Optimizer:
    compression = digits.compression_of(args, hvd, gqsgd)
    return hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=args.lr * hvd.size(), momentum=0.9),
        named_parameters=model.named_parameters(),
        compression=compression,
    )


def train(args: Namespace) -> dict:
    """Train in the world that Horovod was initialised with; what ``digits.report`` wants to know."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # several ranks share this machine

    data, test = make_data(args.seed)
    shard = DistributedSampler(data, num_replicas=hvd.size(), rank=hvd.rank(), seed=args.seed)
    batches = DataLoader(data, batch_size=args.batch_size, sampler=shard, drop_last=True)

    model = make_model()
    optimizer = make_optimizer(args, model)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)

    steps = args.epochs * len(batches)
    gqsgd.traffic.reset()
    started = time.perf_counter()
    with tqdm(total=steps, desc=args.compression, disable=hvd.rank() != 0, mininterval=0.5) as bar:
        for epoch in range(args.epochs):
            shard.set_epoch(epoch)
            for images, labels in batches:
                optimizer.zero_grad()
                loss = cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                bar.update()
            bar.set_postfix(epoch=epoch + 1, loss=f"{loss.item():.3f}")

    return {
        "ranks": hvd.size(),
        "accuracy": accuracy_of(model, test),
        "dense_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "sent_bytes": gqsgd.traffic.sent_bytes // steps,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    args = digits.parse_arguments(__doc__)
    hvd.init()
    result = train(args)
    if hvd.rank() == 0:
        digits.report(args, **result)


if __name__ == "__main__":
    main()
