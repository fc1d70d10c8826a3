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
from hvd_gqsgd.maths import dither as dithers
from hvd_gqsgd.maths import floats, quantize, rotation
from hvd_gqsgd.maths.dither import Turn
from hvd_gqsgd.maths.levels import max_lane_sum

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

    def block_norms(self, layout, tensors, norms, turn, residuals=()):
        given, kept = [as_tensor(t) for t in tensors], [as_tensor(r) for r in residuals]
        self._kernels.block_norms(layout, given, as_tensor(norms), turn, kept)

    def encode(self, layout, tensors, norms, words, turn, residuals=()):
        given, kept = [as_tensor(t) for t in tensors], [as_tensor(r) for r in residuals]
        self._kernels.encode(layout, given, as_tensor(norms), as_tensor(words), turn, kept)

    def decode(self, layout, tensors, words, norms, turn, *, factor):
        given = [as_tensor(t) for t in tensors]
        self._kernels.decode(layout, given, as_tensor(words), as_tensor(norms), turn, factor=factor)


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

    def _in_graph(self, turn):
        # Attributes are signed 64-bit numbers; the kernels take them mod 2^64.
        return turn._replace(seed=turn.seed % (1 << 64), step=self._tf.constant(turn.step, "int64"))

    def block_norms(self, layout, tensors, norms, turn, residuals=()):
        made, kept = self._graph.Buffer(), [self._buffer(r) for r in residuals]
        self._kernels.block_norms(layout, self._parts(tensors), made, self._in_graph(turn), kept)
        norms[NORMS_HEADER : layout.norms_numel] = made.tensor.numpy()[NORMS_HEADER:]

    def encode(self, layout, tensors, norms, words, turn, residuals=()):
        made, kept = self._graph.Buffer(), [self._buffer(r) for r in residuals]
        own = norms[: layout.norms_numel].copy()
        # The operator reads the step where all ranks have the same.
        own[2] = turn.step
        self._kernels.encode(layout, self._parts(tensors), self._buffer(own), made, self._in_graph(turn), kept)
        words[WORDS_HEADER : layout.words_numel] = made.tensor.numpy()[WORDS_HEADER:]
        for array, rest in zip(residuals, kept, strict=True):
            array[...] = rest.tensor.numpy()

    def decode(self, layout, tensors, words, norms, turn, *, factor):
        # The operator divides by the contributors that the header counts.
        one = words[: layout.words_numel].copy()
        one[0] = 1
        parts = self._parts(tensors)
        factor = self._tf.constant(factor, self._tf.float64)
        buffers = self._buffer(one), self._buffer(norms[: layout.norms_numel])
        self._kernels.decode(layout, parts, *buffers, self._in_graph(turn), factor=factor)
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


def layout_of(
    shapes: Sequence[tuple[str, int]],
    block_size: int,
    bits: int,
    rotated: bool = False,
    dither: str = "independent",
    levels: str = "uniform",
) -> Layout:
    """A bucket with a tensor for each (dtype, numel); identities use all 64 bits."""
    members = (
        Member(tensor_id=dithers.mix64(index + 1), numel=numel, dtype=dtype, bits=bits)
        for index, (dtype, numel) in enumerate(shapes)
    )
    return Layout(members=tuple(members), block_size=block_size, rotated=rotated, dither=dither, levels=levels)


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


def residuals(layout: Layout, seed: int = 0) -> list[np.ndarray]:
    """What may have been left over of each member: about as large as ``gradients``."""
    rng = np.random.default_rng([seed, 1])
    sizes = [10.0 ** rng.integers(-7, 4) for _ in layout.members]
    return [(rng.standard_normal(m.numel) * s).astype(np.float32) for m, s in zip(layout.members, sizes, strict=True)]


@dataclass(frozen=True)
class Expected:
    """What the specification makes of a bucket; headers are marked with ``HEADER``; residuals as encode leaves them."""

    norms: np.ndarray
    words: np.ndarray
    outs: list[np.ndarray]
    residuals: list[np.ndarray]


HEADER = 77


def turn_of(size: int, **change: int) -> Turn:
    """The last rank of ``size``, in some step."""
    return Turn(seed=-5, step=(1 << 22) + 1, rank=size - 1, size=size)._replace(**change)


def specification(
    layout: Layout,
    tensors: Sequence[np.ndarray],
    *,
    size: int,
    factor: float,
    agreed: np.ndarray | None = None,
    sums: np.ndarray | None = None,
    residuals: Sequence[np.ndarray] = (),
) -> Expected:
    """Straight from hvd_gqsgd.maths; ``agreed`` replaces the norms and ``sums`` the words that are decoded."""
    norms = np.full(layout.norms_numel, HEADER, dtype=np.float32)
    words = np.full(layout.words_numel, HEADER, dtype=np.int32)
    turn, block_size, left = turn_of(size), layout.block_size, [r.copy() for r in residuals]
    keys = [rotation.rotation_key(turn.seed, m.tensor_id) if layout.rotated else None for m in layout.members]
    for index, tensor in enumerate(tensors):
        own = {"rotation_key": keys[index], "residual": left[index] if left else None}
        norms[layout.norms_of(index)] = quantize.block_norms(tensor, block_size, **own)
    used = norms if agreed is None else agreed
    outs = []
    for index, (member, tensor) in enumerate(zip(layout.members, tensors, strict=True)):
        levels = max_lane_sum(member.bits) // size
        shape = {"block_size": block_size, "bits": member.bits, "levels": levels, "spacing": layout.levels}
        noise, own = dithers.dither_of(layout.dither, turn, member.tensor_id), used[layout.norms_of(index)]
        residual, key = left[index] if left else None, keys[index]
        words[layout.words_of(index)] = quantize.encode(
            tensor, own, dither=noise, rotation_key=key, residual=residual, **shape
        )
        decoded = (words if sums is None else sums)[layout.words_of(index)]
        decoding = {"numel": member.numel, "factor": factor, "dtype": member.dtype, "rotation_key": key}
        outs.append(quantize.decode(decoded, own, **decoding, **shape))
    return Expected(norms, words, outs, left)


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
    size: int,
    factor: float,
    agreed: np.ndarray | None = None,
    sums: np.ndarray | None = None,
    residuals: Sequence[np.ndarray] = (),
) -> None:
    """All verbs of ``kernels`` give ``expected`` and touch neither inputs, headers nor what follows a buffer."""
    before = [tensor.copy() for tensor in tensors]
    norms = _guarded(layout.norms_numel, np.dtype(np.float32), HEADER)
    turn, left = turn_of(size), [r.copy() for r in residuals]
    kernels.block_norms(layout, tensors, norms[: layout.norms_numel], turn, left)
    for now, then in zip(left, residuals, strict=True):
        assert_same_bits(now, then, f"{kernels.name}: read-only residual")
    assert_same_bits(norms[: layout.norms_numel], expected.norms, f"{kernels.name} norms")
    used = expected.norms if agreed is None else agreed
    used_before = used.copy()
    words = _guarded(layout.words_numel, np.dtype(np.int32), HEADER)
    kernels.encode(layout, tensors, used, words[: layout.words_numel], turn, left)
    assert_same_bits(words[: layout.words_numel], expected.words, f"{kernels.name} words")
    for member, now, wanted in zip(layout.members, left, expected.residuals, strict=False):
        assert_same_bits(now, wanted, f"{kernels.name} residual of {member}")
    summed = expected.words if sums is None else sums
    summed_before = summed.copy()
    outs = [_guarded(tensor.size, tensor.dtype, HEADER) for tensor in tensors]
    own = [out[: tensor.size] for out, tensor in zip(outs, tensors, strict=True)]
    kernels.decode(layout, own, summed, used, turn, factor=factor)
    for member, out, wanted in zip(layout.members, own, expected.outs, strict=True):
        if layout.rotated and out.dtype != np.uint16:
            # inf - inf on the way back is a NaN of either sign.
            out, wanted = (np.where(np.isnan(x), np.array(np.nan, x.dtype), x) for x in (out, wanted))
        assert_same_bits(out, wanted, f"{kernels.name} decoded {member}")
    for output in (norms, words, *outs):
        assert (output[-GUARD:] == HEADER).all(), f"{kernels.name} wrote past the end"
    for name, now, then in [("norms", used, used_before), ("words", summed, summed_before)]:
        assert_same_bits(now, then, f"{kernels.name}: read-only {name}")
    for now, then in zip(tensors, before, strict=True):
        assert_same_bits(now, then, f"{kernels.name}: read-only tensor")


@functools.lru_cache(maxsize=64)
def case(
    shapes: tuple[tuple[str, int], ...], block_size: int, bits: int, size: int, factor: float
) -> tuple[Layout, list[np.ndarray], Expected]:
    """A bucket of ``gradients`` and what is expected of it, computed once for all implementations."""
    layout = layout_of(shapes, block_size, bits)
    tensors = gradients(layout, seed=bits)
    return layout, tensors, specification(layout, tensors, size=size, factor=factor)


def check_case(
    kernels: Kernels, shapes: Sequence[tuple[str, int]], block_size: int, bits: int, size: int, factor: float
) -> None:
    """``check`` on the bucket of ``case``."""
    layout, tensors, expected = case(tuple(shapes), block_size, bits, size, factor)
    check(kernels, layout, tensors, expected, size=size, factor=factor)
