"""A small convolutional net on scikit-learn's digits, trained by several ranks.

    horovodrun -np 2 python examples/torch_digits.py --compression gqsgd --bits 4

What differs from a Horovod script without compression is the argument ``compression=`` alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import horovod.torch as hvd
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

from hvd_gqsgd.torch import GlobalQSGD, traffic


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compression", choices=["none", "fp16", "gqsgd"], default="gqsgd")
    parser.add_argument("--bits", type=int, default=8, help="of gqsgd, per element (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32, help="per rank")
    parser.add_argument("--lr", type=float, default=0.02, help="for one rank; multiplied by the number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write the result to this file, as JSON")
    return parser.parse_args()


def make_data(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """1,797 images of 8 x 8 pixels that come with scikit-learn; a quarter of them is kept for the test."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    train_x, test_x = (torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8) / 16 for x in split[:2])
    train_y, test_y = (torch.tensor(y) for y in split[2:])
    return TensorDataset(train_x, train_y), TensorDataset(test_x, test_y)


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


def main() -> None:
    args = parse_arguments()
    hvd.init()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)  # several ranks share this machine

    train, test = make_data(args.seed)
    shard = DistributedSampler(train, num_replicas=hvd.size(), rank=hvd.rank(), seed=args.seed)
    batches = DataLoader(train, batch_size=args.batch_size, sampler=shard, drop_last=True)

    model = make_model()
    dense_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    compression = {
        "none": hvd.Compression.none,
        "fp16": hvd.Compression.fp16,
        "gqsgd": GlobalQSGD(bits=args.bits),
    }[args.compression]
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=args.lr * hvd.size(), momentum=0.9),
        named_parameters=model.named_parameters(),
        compression=compression,
    )
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)

    steps = args.epochs * len(batches)
    traffic.reset()
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
    seconds = time.perf_counter() - started

    sent_bytes = {"none": dense_bytes, "fp16": dense_bytes // 2}.get(args.compression, traffic.sent_bytes // steps)
    if hvd.rank() == 0:
        result = {
            "compression": args.compression,
            "bits": {"none": 32, "fp16": 16}.get(args.compression, args.bits),
            "ranks": hvd.size(),
            "accuracy": accuracy_of(model, test),
            "bytes_per_step": sent_bytes,
            "uncompressed_bytes_per_step": dense_bytes,
            "seconds": seconds,
        }
        print(
            f"{result['compression']} {result['bits']} bits: accuracy {result['accuracy']:.4f}, {sent_bytes:,} bytes "
            f"per step and rank beside {dense_bytes:,} uncompressed ({dense_bytes / sent_bytes:.2f} x), {seconds:.1f} s"
        )
        if args.report:
            args.report.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
