"""What the tests of kernels share: every implementation on NumPy arrays, gradients, and the comparison of bits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from hvd_gqsgd.kernels import compiled
from hvd_gqsgd.kernels.base import Kernels
from hvd_gqsgd.kernels.compiled import CompiledKernels
from hvd_gqsgd.kernels.layout import NORMS_HEADER, WORDS_HEADER, Layout, Member
from hvd_gqsgd.kernels.reference import ReferenceKernels
from hvd_gqsgd.maths import dither, floats, quantize

IMPLEMENTATIONS = (*compiled.ISAS, "reference", "torch", "tensorflow")

#: Elements past the end of each output that no kernel may touch.
GUARD = 64


def as_tensor(array: np.ndarray):
    """A tensor that shares the array's memory; uint16 is bfloat16."""
    torch = pytest.importorskip("torch")
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


class TensorsFromArrays(Kernels):
    """Kernels on tensors, given arrays."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self.name = kernels.name

    def block_norms(self, layout, tensors, norms):
        self._kernels.block_norms(layout, [as_tensor(t) for t in tensors], as_tensor(norms))

    def encode(self, layout, tensors, norms, words, **settings):
        self._kernels.encode(layout, [as_tensor(t) for t in tensors], as_tensor(norms), as_tensor(words), **settings)

    def decode(self, layout, tensors, words, norms, **settings):
        self._kernels.decode(layout, [as_tensor(t) for t in tensors], as_tensor(words), as_tensor(norms), **settings)


class OperatorsFromArrays(Kernels):
    """TensorFlow's operators, given arrays; what they make is copied back."""

    name = "tensorflow"

    def __init__(self) -> None:
        import tensorflow as tf

        from hvd_gqsgd.tensorflow import graph

        self._tf, self._graph = tf, graph
        self._kernels = graph.GraphKernels(check=1)
        self._kernels.gate = tf.zeros([])

    def _parts(self, tensors):
        tf = self._tf
        given = [tf.constant(t.copy()) for t in tensors]
        given = [tf.bitcast(t, tf.bfloat16) if t.dtype == tf.uint16 else t for t in given]
        return [self._graph.PartBuffer(t, 0) for t in given]

    def _buffer(self, array):
        return self._graph.Buffer(self._tf.constant(array.copy()))

    def block_norms(self, layout, tensors, norms):
        made = self._graph.Buffer()
        self._kernels.block_norms(layout, self._parts(tensors), made)
        norms[NORMS_HEADER : layout.norms_numel] = made.tensor.numpy()[NORMS_HEADER:]

    def encode(self, layout, tensors, norms, words, *, levels, seed, step, rank):
        made = self._graph.Buffer()
        # Attributes and inputs are signed 64-bit numbers; the kernels take them mod 2^64.
        step, rank = (self._tf.constant(np.array(x % (1 << 64), np.uint64).view(np.int64)) for x in (step, rank))
        own = self._buffer(norms[: layout.norms_numel])
        keys = {"levels": levels, "seed": seed % (1 << 64), "step": step, "rank": self._tf.cast(rank, "int32")}
        self._kernels.encode(layout, self._parts(tensors), own, made, **keys)
        words[WORDS_HEADER : layout.words_numel] = made.tensor.numpy()[WORDS_HEADER:]

    def decode(self, layout, tensors, words, norms, *, levels, factor):
        # The operator divides by the contributors that the header counts.
        one = words[: layout.words_numel].copy()
        one[0] = 1
        parts = self._parts(tensors)
        factor = self._tf.constant(factor, self._tf.float64)
        buffers = self._buffer(one), self._buffer(norms[: layout.norms_numel])
        self._kernels.decode(layout, parts, *buffers, levels=levels, factor=factor)
        for array, part in zip(tensors, parts, strict=True):
            result = part.tensor
            array[...] = self._tf.bitcast(result, "uint16").numpy() if array.dtype == np.uint16 else result.numpy()


def make(name: str, threads: Callable[[], int] | int = 0) -> Kernels:
    """The implementation called ``name``, taking arrays; skips only for an instruction set the processor lacks."""
    if name == "reference":
        return ReferenceKernels()
    if name == "torch":
        pytest.importorskip("torch")
        from hvd_gqsgd.torch.operators import TorchKernels

        return TensorsFromArrays(TorchKernels())
    if name == "tensorflow":
        return OperatorsFromArrays()
    if name not in compiled.runnable():
        pytest.skip(f"this processor has no {name}")
    return CompiledKernels(isa=name, threads=threads)


def layout_of(shapes: Sequence[tuple[str, int]], block_size: int, bits: int) -> Layout:
    """A bucket with a tensor for each (dtype, numel); identities use all 64 bits."""
    members = (
        Member(tensor_id=dither.mix64(index + 1), numel=numel, dtype=dtype)
        for index, (dtype, numel) in enumerate(shapes)
    )
    return Layout(members=tuple(members), block_size=block_size, bits=bits)


def to_dtype(x: np.ndarray, dtype: str) -> np.ndarray:
    """Values as ``dtype``; bfloat16 as uint16."""
    return floats.from_float64(np.asarray(x, dtype=np.float64), dtype).copy()


def gradients(layout: Layout, seed: int = 0) -> list[np.ndarray]:
    """Normal values whose size differs from block to block by many orders of magnitude."""
    rng = np.random.default_rng(seed)
    result = []
    for member in layout.members:
        sizes = 10.0 ** rng.integers(-7, 4, quantize.count_blocks(member.numel, layout.block_size))
        spread = np.repeat(sizes, layout.block_size)[: member.numel]
        result.append(to_dtype(rng.standard_normal(member.numel) * spread, member.dtype))
    return result


@dataclass(frozen=True)
class Expected:
    """What the specification makes of a bucket; headers are marked with ``HEADER``."""

    norms: np.ndarray
    words: np.ndarray
    outs: list[np.ndarray]


HEADER = 77
SETTINGS = {"seed": -5, "step": 1 << 40, "rank": 3}


def specification(
    layout: Layout,
    tensors: Sequence[np.ndarray],
    *,
    levels: int,
    factor: float,
    agreed: np.ndarray | None = None,
    sums: np.ndarray | None = None,
) -> Expected:
    """Straight from hvd_gqsgd.maths; ``agreed`` replaces the norms and ``sums`` the words that are decoded."""
    norms = np.full(layout.norms_numel, HEADER, dtype=np.float32)
    words = np.full(layout.words_numel, HEADER, dtype=np.int32)
    for index, tensor in enumerate(tensors):
        norms[layout.norms_of(index)] = quantize.block_norms(tensor, layout.block_size)
    used = norms if agreed is None else agreed
    outs = []
    for index, (member, tensor) in enumerate(zip(layout.members, tensors, strict=True)):
        key = dither.tensor_key(SETTINGS["seed"], SETTINGS["step"], member.tensor_id, SETTINGS["rank"])
        own, block_size, bits = used[layout.norms_of(index)], layout.block_size, layout.bits
        words[layout.words_of(index)] = quantize.encode(
            tensor, own, block_size=block_size, bits=bits, levels=levels, key=key
        )
        decoded = (words if sums is None else sums)[layout.words_of(index)]
        decoding = {"numel": member.numel, "levels": levels, "factor": factor, "dtype": member.dtype}
        outs.append(quantize.decode(decoded, own, block_size=block_size, bits=bits, **decoding))
    return Expected(norms, words, outs)


def assert_same_bits(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Bits, not values: -0 differs from 0, and a NaN equals itself."""
    assert got.dtype == expected.dtype and got.shape == expected.shape, what
    unsigned = np.dtype(f"u{got.dtype.itemsize}")
    differs = np.flatnonzero(got.view(unsigned) != expected.view(unsigned))
    assert not differs.size, (
        f"{what}: {differs.size} of {got.size} differ, first at {differs[0]}: "
        f"expected {expected[differs[0]]!r}, got {got[differs[0]]!r}"
    )


def _guarded(numel: int, dtype: np.dtype, fill: int) -> np.ndarray:
    return np.full(numel + GUARD, fill, dtype=dtype)


def check(
    kernels: Kernels,
    layout: Layout,
    tensors: Sequence[np.ndarray],
    expected: Expected,
    *,
    levels: int,
    factor: float,
    agreed: np.ndarray | None = None,
    sums: np.ndarray | None = None,
) -> None:
    """All verbs of ``kernels`` give ``expected`` and touch neither inputs, headers nor what follows a buffer."""
    before = [tensor.copy() for tensor in tensors]
    norms = _guarded(layout.norms_numel, np.dtype(np.float32), HEADER)
    kernels.block_norms(layout, tensors, norms[: layout.norms_numel])
    assert_same_bits(norms[: layout.norms_numel], expected.norms, f"{kernels.name} norms")
    used = expected.norms if agreed is None else agreed
    used_before = used.copy()
    words = _guarded(layout.words_numel, np.dtype(np.int32), HEADER)
    kernels.encode(layout, tensors, used, words[: layout.words_numel], levels=levels, **SETTINGS)
    assert_same_bits(words[: layout.words_numel], expected.words, f"{kernels.name} words")
    summed = expected.words if sums is None else sums
    summed_before = summed.copy()
    outs = [_guarded(tensor.size, tensor.dtype, HEADER) for tensor in tensors]
    own = [out[: tensor.size] for out, tensor in zip(outs, tensors, strict=True)]
    kernels.decode(layout, own, summed, used, levels=levels, factor=factor)
    for member, out, wanted in zip(layout.members, own, expected.outs, strict=True):
        assert_same_bits(out, wanted, f"{kernels.name} decoded {member}")
    for output in (norms, words, *outs):
        assert (output[-GUARD:] == HEADER).all(), f"{kernels.name} wrote past the end"
    for name, now, then in [("norms", used, used_before), ("words", summed, summed_before)]:
        assert_same_bits(now, then, f"{kernels.name}: read-only {name}")
    for now, then in zip(tensors, before, strict=True):
        assert_same_bits(now, then, f"{kernels.name}: read-only tensor")


@functools.lru_cache(maxsize=64)
def case(
    shapes: tuple[tuple[str, int], ...], block_size: int, bits: int, levels: int, factor: float
) -> tuple[Layout, list[np.ndarray], Expected]:
    """A bucket of ``gradients`` and what is expected of it, computed once for all implementations."""
    layout = layout_of(shapes, block_size, bits)
    tensors = gradients(layout, seed=bits)
    return layout, tensors, specification(layout, tensors, levels=levels, factor=factor)


def check_case(
    kernels: Kernels, shapes: Sequence[tuple[str, int]], block_size: int, bits: int, levels: int, factor: float
) -> None:
    """``check`` on the bucket of ``case``."""
    layout, tensors, expected = case(tuple(shapes), block_size, bits, levels, factor)
    check(kernels, layout, tensors, expected, levels=levels, factor=factor)
