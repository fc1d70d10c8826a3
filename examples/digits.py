"""What the digits examples share: their options, the data, and how a run is reported."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

COMPRESSIONS = ("none", "fp16", "gqsgd", "two_phase", "exponential", "dqsgd", "marsit", "gradiveq")
#: Bits per element where --bits does not say.
USUAL_BITS = {"gqsgd": 8, "two_phase": 8, "exponential": 8}


def parse_arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compression", choices=COMPRESSIONS, default="gqsgd")
    parser.add_argument("--bits", type=float, help="per element, of gqsgd, two_phase, exponential (8) and dqsgd")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32, help="per rank")
    parser.add_argument("--lr", type=float, default=0.02, help="for one rank; multiplied by the number of ranks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write the result to this file, as JSON")
    args = parser.parse_args()
    args.bits = args.bits or USUAL_BITS.get(args.compression)
    return args


def compression_of(args: argparse.Namespace, hvd: ModuleType, ours: ModuleType) -> Any:
    """What goes behind ``compression=``. hvd: horovod.torch or horovod.tensorflow; ours: hvd_gqsgd's module for it."""
    bits = args.bits
    if args.compression in ("none", "fp16"):
        return getattr(hvd.Compression, args.compression)
    if args.compression == "gqsgd":
        return ours.GlobalQSGD(bits=int(bits))
    if args.compression == "two_phase":
        return ours.GlobalQSGD(bits=int(bits), exchange="two_phase")
    if args.compression == "exponential":
        return ours.GlobalQSGD(bits=int(bits), levels="exponential", rotation=None)
    if args.compression == "dqsgd":
        return ours.DQSGD(bits=bits)
    if args.compression == "marsit":
        return ours.Marsit(sync_every=10)
    # As long a run as this has some phases of these lengths.
    return ours.GradiVeQ(warm_up_steps=40, sample_steps=20, compress_steps=80, slice_numel=512)


def make_data(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images (n, 8, 8) float32 in [0, 1] and labels (n,) to train on, then to test: scikit-learn's 1,797 digits.

    A quarter is kept for the test.
    """
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    train, test = (part.reshape(-1, 8, 8).astype(np.float32) / 16 for part in split[:2])
    return train, split[2], test, split[3]


def report(
    args: argparse.Namespace, *, ranks: int, accuracy: float, dense_bytes: int, sent_bytes: int, seconds: float
) -> None:
    """Print one line, and write it where ``--report`` says.

    dense_bytes: all gradients of a step as float32. sent_bytes: in a step, by our own count, in the mean over the run.
    """
    sent_bytes = {"none": dense_bytes, "fp16": dense_bytes // 2}.get(args.compression, sent_bytes)
    bits = {"none": 32, "fp16": 16}.get(args.compression, args.bits)
    name = args.compression if bits is None else f"{args.compression} {bits:g} bits"
    less = f"{dense_bytes / sent_bytes:.2f} x" if sent_bytes else "a rank alone sends nothing"
    print(
        f"{name}: accuracy {accuracy:.4f}, {sent_bytes:,} bytes per step and rank beside "
        f"{dense_bytes:,} uncompressed ({less}), {seconds:.1f} s"
    )
    if args.report:
        result = {
            "compression": args.compression,
            "bits": bits,
            "ranks": ranks,
            "accuracy": accuracy,
            "bytes_per_step": sent_bytes,
            "uncompressed_bytes_per_step": dense_bytes,
            "seconds": seconds,
        }
        args.report.write_text(json.dumps(result))
