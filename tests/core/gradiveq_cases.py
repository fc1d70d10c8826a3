"""What the tests of GradiVeQ share: ranks that exchange step after step, and gradients that lie in a subspace."""

from __future__ import annotations

import numpy as np

from hvd_gqsgd import kernels
from hvd_gqsgd.kernels.layout import Layout, Member
from hvd_gqsgd.maths import principal
from hvd_gqsgd.schemes import Bucket, GlobalQSGD, GradiVeQ, World
from hvd_gqsgd.schemes.agreement import tensor_id
from hvd_gqsgd.worlds import loopback
from tests.core import loopback_cases

#: The compiled ones, where there are any: runs of many steps.
KERNELS = kernels.select() if len(kernels.available()) > 1 else loopback_cases.KERNELS
#: 36 slices of F D = 128 elements.
CONV = (16, 8, 6, 6)
MATRIX = (20, 55)
FINE = GlobalQSGD(bits=16)
SHORT = {"slice_numel": 128, "ratio": 8, "warm_up_steps": 2, "sample_steps": 4, "compress_steps": 6, "samples": 144, "sampling": FINE}


def quick(**settings) -> GradiVeQ:
    """With phases of a few steps: warming 0 and 1, sampling 2 to 5, using from 6, sampling again from 12."""
    return GradiVeQ(**{"then": FINE, **SHORT, **settings})


class Ranks:
    """n ranks that exchange the same tensors in every step."""

    def __init__(self, scheme, n=2, shapes=None, dtype="float32"):
        self.scheme, self.n, self.step = scheme, n, 0
        self.shapes = shapes or {"conv": CONV, "matrix": MATRIX}
        members = tuple(
            Member(
                tensor_id=tensor_id(name),
                numel=int(np.prod(shape)),
                dtype=dtype,
                bits=scheme.bits_of(name, shape) or 8,
            )
            for name, shape in self.shapes.items()
        )
        self.layout = Layout(members=members, **scheme.layout_settings())
        self.memories = [[{} for _ in members] for _ in range(n)]
        self.make_buckets()

    def make_buckets(self):
        """Buckets anew, with nothing but the memories."""
        names = tuple(self.shapes)
        self.buckets = [
            Bucket(
                layout=self.layout,
                names=names,
                check=7,
                norms=np.full(self.layout.norms_numel, -1, np.float32),
                words=np.full(self.layout.words_numel, -1, np.int32),
                labels=names,
                shapes=tuple(self.shapes.values()),
                memory=memory,
            )
            for memory in self.memories
        ]

    def allreduce(self, inputs, scale=1.0, steps=None):
        """Results of each rank that takes part (inputs[rank] is not None), which all have to be the same bits."""
        present = [rank for rank in range(self.n) if inputs[rank] is not None]
        exchanges = [None] * self.n
        for rank in present:
            bucket = self.buckets[rank]
            bucket.tensors = inputs[rank]
            bucket.step = self.step if steps is None else steps[rank]
            exchanges[rank] = self.scheme.collectives(bucket, KERNELS, World(self.n, rank))
        self.sent_bytes = loopback.run(exchanges)
        self.step += 1
        results = []
        for rank in present:
            outs = [np.empty_like(tensor) for tensor in inputs[rank]]
            self.scheme.decode(self.buckets[rank], KERNELS, World(self.n, rank), outs, scale=scale)
            results.append(outs)
        for outs in results[1:]:
            for own, other in zip(results[0], outs, strict=True):
                np.testing.assert_array_equal(own, other)
        return results[0]

    def phases(self, index=0):
        """[phase, steps in it] on every rank."""
        return [memory[index]["state"][:2].tolist() if memory[index] else None for memory in self.memories]


class Gradients:
    """Kernels whose slices all lie in one affine subspace of ``dims`` dimensions, and matrices that lie in none."""

    def __init__(self, n=2, dims=5, shapes=None, numel=128, seed=0, noise=0.0):
        self.n, self.numel, self.noise = n, numel, noise
        self.shapes = shapes or {"conv": CONV, "matrix": MATRIX}
        self.rng = np.random.default_rng(seed)
        self.turn(dims)

    def turn(self, dims=5):
        """Another subspace from now on."""
        self.basis = self.rng.standard_normal((dims, self.numel))
        self.mean = self.rng.standard_normal(self.numel)

    def draw(self):
        """Tensors of every rank in one step."""
        return [[self._tensor(shape) for shape in self.shapes.values()] for _ in range(self.n)]

    def _tensor(self, shape):
        numel = int(np.prod(shape))
        if len(shape) < 3:
            return self.rng.standard_normal(numel).astype(np.float32)
        slices = self.mean + self.rng.standard_normal((numel // self.numel, len(self.basis))) @ self.basis
        slices += self.noise * self.rng.standard_normal(slices.shape)
        return principal.from_slices(slices, shape, "first").astype(np.float32)


def mean_of(inputs, index=0):
    return np.mean([tensors[index].astype(np.float64) for tensors in inputs if tensors is not None], axis=0)


def error_of(result, inputs, index=0):
    """|result - mean| / |mean|."""
    mean = mean_of(inputs, index)
    return np.linalg.norm(result[index] - mean) / np.linalg.norm(mean)
