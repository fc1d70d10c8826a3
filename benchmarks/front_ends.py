"""What each front end makes of the same kernels: block norms, encode and decode of one step's gradients, no network.

    torch               buffers kept from step to step, results in the gradients' own memory
    tf in place         operators in a tf.function, gradients made in it: results in their own memory, as in training
    tf new memory       the same for gradients that the caller keeps, as with a tape in eager mode
    tf numpy_function   the compiled kernels called through tf.numpy_function, for the decision in DESIGN.md

All in turn, round after round; what counts is the quotient with torch in the same round, as median and quartiles. What
it takes to make the gradients is measured beside and taken off.

    python -m benchmarks.front_ends
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import torch

from hvd_gqsgd import kernels
from hvd_gqsgd.kernels.layout import NORMS_HEADER, WORDS_HEADER, Layout, Member
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.schemes import GlobalQSGD, cutting
from hvd_gqsgd.tensorflow.graph import Buffer, GraphKernels, PartBuffer
from hvd_gqsgd.torch.buffers import kernels_for

BITS = 8
SETTINGS = GlobalQSGD().layout_settings()
TURN = Turn(seed=0, step=1, rank=0, size=2)


def layouts_of(shapes: list[tuple[int, int]]) -> list[tuple[list[cutting.Piece], Layout]]:
    """The buckets of a step and where everything lies in them."""
    buckets = cutting.cut([(rows * columns, 4) for rows, columns in shapes], SETTINGS["block_size"])
    found = []
    for bucket in buckets:
        members = tuple(Member(tensor_id=p.tensor, numel=p.numel, dtype="float32", bits=BITS) for p in bucket)
        found.append((bucket, Layout(members=members, **SETTINGS)))
    return found


def torch_step(shapes: list[tuple[int, int]], buckets: Any) -> Callable[[], None]:
    """One step's kernels as the torch front end calls them."""
    compiled = kernels_for("cpu")
    flats = [torch.randn(rows * columns) for rows, columns in shapes]
    norms = [torch.zeros(layout.norms_numel) for _, layout in buckets]
    words = [torch.ones(layout.words_numel, dtype=torch.int32) for _, layout in buckets]

    def step() -> None:
        for number, (bucket, layout) in enumerate(buckets):
            parts = [flats[p.tensor][p.start : p.start + p.numel] for p in bucket]
            compiled.block_norms(layout, parts, norms[number], TURN)
            compiled.encode(layout, parts, norms[number], words[number], TURN)
            compiled.decode(layout, parts, words[number], norms[number], TURN, factor=1.0)

    return step


def through_operators(gradients: list[Any], buckets: Any) -> list[Any]:
    """The same as operators of a graph."""
    graph = GraphKernels(check=1)
    graph.gate = tf.zeros([])
    turn = TURN._replace(step=tf.constant(TURN.step, tf.int64))
    results = list(gradients)
    kept = []
    for bucket, layout in buckets:
        norms, words = Buffer(), Buffer()
        parts = [PartBuffer(gradients[p.tensor], p.start) for p in bucket]
        graph.block_norms(layout, parts, norms, turn)
        graph.encode(layout, parts, norms, words, turn)
        kept.append((bucket, layout, norms, words))
    for bucket, layout, norms, words in kept:
        for member, piece in enumerate(bucket):
            out = PartBuffer(results[piece.tensor], piece.start)
            asked = [out if place == member else None for place in range(len(bucket))]
            graph.decode(layout, asked, words, norms, turn, factor=tf.ones([]))
            results[piece.tensor] = out.tensor
    return results


def through_numpy_function(gradients: list[Any], buckets: Any) -> list[Any]:
    """The same in Python functions, one for each bucket and verb, with the compiled kernels behind ctypes."""
    compiled = kernels.select()
    results = []
    sums: dict[int, list[Any]] = {}
    for bucket, layout in buckets:

        def norms_of(*flats: np.ndarray, bucket: Any = bucket, layout: Layout = layout) -> np.ndarray:
            norms = np.empty(layout.norms_numel, np.float32)
            compiled.block_norms(
                layout, [f.ravel()[p.start :] for f, p in zip(flats, bucket, strict=True)], norms, TURN
            )
            return norms

        def words_of(
            norms: np.ndarray, *flats: np.ndarray, bucket: Any = bucket, layout: Layout = layout
        ) -> np.ndarray:
            words = np.empty(layout.words_numel, np.int32)
            parts = [f.ravel()[p.start :] for f, p in zip(flats, bucket, strict=True)]
            compiled.encode(layout, parts, norms, words, TURN)
            return words

        given = [gradients[p.tensor] for p in bucket]
        norms = tf.numpy_function(norms_of, given, tf.float32)
        words = tf.numpy_function(words_of, [norms, *given], tf.int32)
        for member, piece in enumerate(bucket):
            one = Layout(members=layout.members[member : member + 1], **SETTINGS)
            places = layout.norms_of(member), layout.words_of(member)
            sums.setdefault(piece.tensor, []).append((piece, one, places, norms, words))
    for tensor, parts in sums.items():
        shape = gradients[tensor].shape

        def result(*buffers: np.ndarray, parts: Any = parts, shape: Any = shape) -> np.ndarray:
            out = np.empty(shape.num_elements(), np.float32)
            for (piece, one, (n, w), _, _), norms, words in zip(parts, buffers[::2], buffers[1::2], strict=True):
                # The layout of one member expects headers before it.
                shifted = norms[n.start - NORMS_HEADER :], words[w.start - WORDS_HEADER :]
                compiled.decode(one, [out[piece.start :]], shifted[1], shifted[0], TURN, factor=1.0)
            return out.reshape(shape)

        results.append(tf.numpy_function(result, [b for p in parts for b in p[3:]], tf.float32))
    return results


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--tensors", type=int, default=5, help="of 2,250 x 2,250 elements each")
    options = parser.parse_args()
    shapes = [(2250, 2250)] * options.tensors
    buckets = layouts_of(shapes)
    given = [tf.random.normal(shape) for shape in shapes]

    def graph(make: Callable[[list[Any], Any], list[Any]], inside: bool, back: bool) -> Callable[[], Any]:
        @tf.function
        def step(factor: Any) -> Any:
            gradients = [x * factor for x in given] if inside else given
            results = make(gradients, buckets)
            return results if back else [r[0, 0] for r in results]

        return lambda: [r.numpy() if not back else r for r in step(tf.constant(1.5))]

    contenders = {
        "torch": torch_step(shapes, buckets),
        "gradients alone": graph(lambda g, _: g, True, False),
        "tf in place": graph(through_operators, True, False),
        "tf new memory": graph(through_operators, False, True),
        "tf numpy_function": graph(through_numpy_function, False, True),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(options.rounds + 3):
        for name, work in contenders.items():
            taken = seconds(work)
            if turn >= 3:
                times[name].append(taken)
    times["tf in place"] = [a - b for a, b in zip(times["tf in place"], times.pop("gradients alone"), strict=True)]
    numel = sum(rows * columns for rows, columns in shapes)
    print(f"block norms, encode, decode of {numel / 1e6:.1f} M float32 elements, {BITS} bits, {len(buckets)} buckets")
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, times["torch"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name:18} {statistics.median(values) * 1e3:7.1f} ms   {middle:5.2f} x torch [{low:.2f} {high:.2f}]")


if __name__ == "__main__":
    main()
