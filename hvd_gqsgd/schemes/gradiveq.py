"""GradiVeQ (arXiv 1811.03617): kernels of convolutions as coefficients of their principal components, which sum.

    c_i = U_d^T (x_i - mu)              of each slice of K elements, on each rank
    mean x = U_d (mean_i c_i) + mu      once, whatever the number of ranks

The coefficients are tensors like any other: another scheme, ``then``, quantises and sums them, and with them whatever
has no basis. U_d and mu come from means that ``sampling`` has exchanged for some steps (subspaces has the schedule).
What lies outside U_d is lost: unlike the other schemes' error this one does not vanish in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hvd_gqsgd.errors import SettingsError
from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.maths import floats, principal
from hvd_gqsgd.schemes import subspaces
from hvd_gqsgd.schemes.agreement import tensor_id
from hvd_gqsgd.schemes.base import AllGather, AllToAll, Bucket, Exchange, Kind, Max, Scheme, Sum, World
from hvd_gqsgd.schemes.global_qsgd import GlobalQSGD
from hvd_gqsgd.schemes.inner import Part, inner_bucket, mean_by, mean_in_full
from hvd_gqsgd.schemes.measure import NOTHING, Measured
from hvd_gqsgd.schemes.subspaces import Phase, Projection, Schedule, Slicing, Subspace

_FLOAT_BITS = 32
_MOST_STEPS = 1 << 30
_EIGHT_BITS = GlobalQSGD(bits=8)


@dataclass
class _Member:
    """A member in one step: what ``scheme`` sends of it, and in its place afterwards its mean over the ranks.

    values: its elements, or with a basis the coefficients of its slices.
    """

    index: int
    scheme: GlobalQSGD | None
    values: np.ndarray
    slicing: Slicing | None = None
    basis: tuple[np.ndarray, np.ndarray] | None = None

    def part_of(self, bucket: Bucket) -> Part:
        """The same as a part of an inner bucket."""
        assert self.scheme is not None
        label, own = bucket.labels[self.index], bucket.layout.members[self.index].tensor_id
        bits = self.scheme.bits_of(label, bucket.shapes[self.index])
        assert bits is not None, label
        if self.basis is not None:
            label += ".coefficients"
            own = tensor_id(label)
        return Part(label, own, self.values.size, bits)

    def decoded(self, scale: float, dtype: str) -> np.ndarray:
        """scale * mean in storage of ``dtype`` (elements,); NaN throughout where a coefficient is not finite."""
        if self.slicing is None or self.basis is None:
            return floats.from_float64(self.values.astype(np.float64) * scale, dtype)
        if not np.isfinite(self.values).all():
            return floats.from_float64(np.full(math.prod(self.slicing.shape), np.nan), dtype)
        slices = principal.rebuild(self.values.reshape(self.slicing.count, -1), *self.basis)
        slices *= scale
        # Rounded before they are put in order, which then moves fewer bytes.
        return principal.from_slices(floats.from_float64(slices, dtype), self.slicing.shape, self.slicing.filters)


@dataclass(frozen=True, kw_only=True)
class GradiVeQ(Scheme):
    """Settings of GradiVeQ.

    then: the scheme for coefficients and for tensors without a basis, in the warm-up too; None for float32, and then
        Horovod itself sends what is no convolution's kernel.
    sampling: the scheme for kernels while their means are sampled.
    ratio: at least so many elements of a slice for each of its coefficients. More means fewer bytes and more loss.
    loss: part of the samples' variance that need not be kept; fewer coefficients are sent where that allows it.
    centre: subtract the mean of the samples before, and add it after, as the paper does. False, because a mean goes out
        of date sooner than a basis: what of it lies outside the basis would be added to every gradient of the phase.
    slice_numel: elements of a slice, about (maths.principal.slice_length). Longer ones lose less at the same ratio and
        take more memory and time.
    warm_up_steps, sample_steps, compress_steps: lengths of the phases, in steps; the last two alternate.
    samples: slices of a tensor that are kept, about, at least one a step; a basis has fewer columns than that.
    refresh: sample anew as soon as every rank loses more than this part of its own gradient; None never does.
    """

    then: GlobalQSGD | None = _EIGHT_BITS
    sampling: GlobalQSGD = _EIGHT_BITS
    ratio: int = 8
    loss: float = 0.01
    centre: bool = False
    slice_numel: int = 2048
    warm_up_steps: int = 200
    sample_steps: int = 100
    compress_steps: int = 400
    samples: int = 512
    refresh: float | None = None

    #: Where a kernel's shape has its filters: "first" in PyTorch, "last" in TensorFlow, whose front ends set it.
    filters: ClassVar[str] = "first"

    def __post_init__(self) -> None:
        self._require_scheme("then", optional=True)
        self._require_scheme("sampling", optional=False)
        self._require_integer("ratio", 1, 1 << 16)
        self._require_part("loss", optional=False)
        self._require_one_of("centre", (False, True))
        self._require_integer("slice_numel", 16, 1 << 20)
        self._require_integer("warm_up_steps", 0, _MOST_STEPS)
        self._require_integer("sample_steps", 2, _MOST_STEPS)
        self._require_integer("compress_steps", 1, _MOST_STEPS)
        self._require_integer("samples", 2, 1 << 16)
        self._require_part("refresh", optional=True)

    @property
    def on_host(self) -> bool:
        return True

    @property
    def stages(self) -> Sequence[Sequence[Kind]]:
        first: list[Kind] = [(Max, "float32")]
        inner = [scheme for scheme in dict.fromkeys((self.then, self.sampling)) if scheme is not None]
        two_phases = any(scheme.on_host for scheme in inner)
        later: list[Kind] = [(None, ""), *first, (Sum, "float32"), (Sum, "int32")]
        if two_phases:
            later += [(AllToAll, "int32"), (AllGather, "int32")]
        # A basis that is taken over, one exchange in full, and those of the inner schemes.
        most = 1 + (self.then is None) + (3 if two_phases else 2) * len(inner)
        return [first, *[later] * most]

    @property
    def remembers(self) -> bool:
        return True

    @property
    def cuts_tensors(self) -> bool:
        return False

    def bits_of(self, name: str, shape: Sequence[int]) -> int | None:
        if self.then is not None:
            return self.then.bits_of(name, shape)
        return self.sampling.bits_of(name, shape) if self.slicing_of(name, shape) else None

    def layout_settings(self) -> dict[str, Any]:
        return (self.then or self.sampling).layout_settings()

    def check_world(self, size: int) -> None:
        for scheme in (self.then, self.sampling):
            if scheme is not None:
                scheme.check_world(size)

    def slicing_of(self, name: str, shape: Sequence[int]) -> Slicing | None:
        """How a tensor is cut; None for what is no convolution's kernel, or too small for a basis to save bytes."""
        full = self.then.bits_of(name, shape) if self.then else _FLOAT_BITS
        sampled_bits = self.sampling.bits_of(name, shape)
        if len(shape) < 3 or full is None or sampled_bits is None:
            return None
        filters, depth = (shape[0], shape[1]) if self.filters == "first" else (shape[-1], shape[-2])
        total = math.prod(shape)
        numel = principal.slice_length(filters, depth, total // (filters * depth), self.slice_numel)
        count = total // numel
        sampled = min(count, max(1, self.samples // self.sample_steps))
        most = min(numel // self.ratio, self.sample_steps * sampled - 1)
        bits = self.compress_steps * count * most * full + self.sample_steps * total * sampled_bits
        if not most or bits >= (self.compress_steps + self.sample_steps) * total * full:
            return None
        return Slicing(tuple(shape), self.filters, numel, count, sampled, most)

    def collectives(self, bucket: Bucket, kernels: Kernels, world: World, *, valid: bool = True) -> Exchange:
        inputs = [floats.to_float32(tensor) for tensor in bucket.tensors]
        spaces = self._subspaces(bucket)
        projected = {i: space.project(inputs[i]) for i, space in spaces.items() if valid and space.dims}
        step = yield from subspaces.agree(bucket, spaces, projected, world, valid)
        members = [self._member(i, values, spaces.get(i), projected.get(i)) for i, values in enumerate(inputs)]
        bucket.scratch["members"] = members
        # One after the other in the same order everywhere; one exchange where both are equal.
        for scheme in dict.fromkeys((self.then, self.sampling)):
            chosen = [member for member in members if member.scheme == scheme]
            if not chosen:
                continue
            sent = [member.values.reshape(-1) for member in chosen]
            if scheme is None:
                means = yield from mean_in_full(sent)
            else:
                parts = [member.part_of(bucket) for member in chosen]
                means = yield from mean_by(scheme, bucket, parts, sent, kernels, world, step)
            for member, mean in zip(chosen, means, strict=True):
                member.values = mean
        for i, space in spaces.items():
            space.advance(members[i].values)

    def decode(self, bucket: Bucket, kernels: Kernels, world: World, out: Sequence[Buffer], *, scale: float) -> None:
        for member, layout, target in zip(bucket.scratch["members"], bucket.layout.members, out, strict=True):
            target[...] = member.decoded(scale, layout.dtype)

    def measure(self, bucket: Bucket, world: World) -> Measured:
        """Of ``then`` and ``sampling``; the error is NaN where a basis was used, because nobody sees what it missed."""
        measured = NOTHING
        members: list[_Member] = bucket.scratch["members"]
        for scheme in {member.scheme for member in members if member.scheme is not None}:
            measured = measured.plus(scheme.measure(inner_bucket(scheme, bucket), world))
        if any(member.basis is not None for member in members):
            measured = measured._replace(squared_error=math.nan)
        return measured

    def _member(self, index: int, values: np.ndarray, space: Subspace | None, projection: Projection | None) -> _Member:
        if space is None or space.phase is Phase.WARMING:
            return _Member(index, self.then or self.sampling, values)
        if space.phase is Phase.SAMPLING:
            return _Member(index, self.sampling, values)
        if not space.dims:
            return _Member(index, self.then or self.sampling, values)
        if projection is None or projection.digest != space.digest:
            projection = space.project(values)
        return _Member(index, self.then, projection.coefficients, space.slicing, space.basis)

    def _subspaces(self, bucket: Bucket) -> dict[int, Subspace]:
        """By number of the member, of those that have one."""
        key = "slicings"
        if key not in bucket.scratch:
            cut = [self.slicing_of(name, shape) for name, shape in zip(bucket.labels, bucket.shapes, strict=True)]
            bucket.scratch[key] = {i: slicing for i, slicing in enumerate(cut) if slicing is not None}
        phases = self.warm_up_steps, self.sample_steps, self.compress_steps
        schedule = Schedule(*phases, self.loss, self.centre, self.refresh)
        return {i: Subspace(bucket.memory[i], cut, schedule) for i, cut in bucket.scratch[key].items()}

    def _require_scheme(self, name: str, optional: bool) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        if not isinstance(value, GlobalQSGD):
            raise SettingsError(
                f"{type(self).__name__}({name}={value!r}): expected a GlobalQSGD{' or None' if optional else ''}, got "
                f"{value!r}; write for instance {name}=GlobalQSGD(bits=8)"
            )
        if value.error_feedback:
            raise SettingsError(
                f"{type(self).__name__}({name}={value!r}): expected error_feedback=False, got True: what is left over "
                f"of one basis' coefficients does not fit the next; write {name}=GlobalQSGD(bits={value.bits!r})"
            )

    def _require_part(self, name: str, optional: bool) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        number = type(value) in (int, float) or isinstance(value, np.floating)
        if not number or not 0 <= value < 1:
            raise SettingsError(
                f"{type(self).__name__}({name}={value!r}): expected a number from 0 to 1 (exclusive)"
                f"{' or None' if optional else ''}, got {value!r}; write for instance {name}="
                f"{type(self).__dataclass_fields__[name].default!r}"
            )
        object.__setattr__(self, name, float(value))
