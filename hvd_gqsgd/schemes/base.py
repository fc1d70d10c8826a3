"""The yield protocol: a scheme is straight-line code, whoever drives it decides what a collective is.

    def collectives(self, bucket, kernels, world):
        kernels.block_norms(bucket.layout, bucket.tensors, bucket.norms)
        yield Max(bucket.norms)              # resumed when the buffer holds the maximum over all ranks
        kernels.encode(...)
        yield Sum(bucket.words)

The torch engine starts an asynchronous Horovod collective at a yield and resumes the generator in a later hook; the
TensorFlow exchange runs it once, while a graph is made, and each yield becomes an operator; ``worlds.loopback`` runs n
generators in one process. So a scheme asks buckets and kernels for what it needs and never looks into a buffer.

A scheme that is ``on_host`` may look: its buffers are NumPy arrays in every front end, its generator runs anew in every
step, and it may use AllToAll and AllGather, whose result is what the yield returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hvd_gqsgd.errors import DisagreementError, SettingsError
from hvd_gqsgd.kernels.base import Buffer, Kernels
from hvd_gqsgd.kernels.layout import NORMS_HEADER, Layout
from hvd_gqsgd.schemes.measure import Measured, measure
from hvd_gqsgd.schemes.settings import Settings

# Checks are compared as float32, which is exact up to here.
CHECK_RANGE = 1 << 24


@dataclass(frozen=True)
class Max:
    """Ask for the element-wise maximum over all ranks, in place. A rank that joined counts as zeros."""

    buffer: Buffer

    def allreduce_bytes(self, size: int) -> int:
        """Payload of an allreduce that puts as much on the wire."""
        return int(self.buffer.nbytes)


@dataclass(frozen=True)
class Sum:
    """Ask for the element-wise sum over all ranks, in place. A rank that joined counts as zeros."""

    buffer: Buffer

    def allreduce_bytes(self, size: int) -> int:
        """Payload of an allreduce that puts as much on the wire."""
        return int(self.buffer.nbytes)


@dataclass(frozen=True)
class AllToAll:
    """Ask for what every rank has for this one: the arrays, one after the other, that they addressed to it.

    buffer: one array (elements,), read only; splits: how many of its elements go to each rank, in their order.
    Horovod refuses it after hvd.join.
    """

    buffer: np.ndarray
    splits: Sequence[int]

    def allreduce_bytes(self, size: int) -> int:
        """Payload of an allreduce that puts as much on the wire: it moves its payload twice, this does once."""
        return int(self.buffer.nbytes) // 2


@dataclass(frozen=True)
class AllGather:
    """Ask for every rank's array (elements,), one after the other; they may differ in length.

    Horovod refuses it after hvd.join.
    """

    buffer: np.ndarray

    def allreduce_bytes(self, size: int) -> int:
        """Payload of an allreduce that puts as much on the wire, were all arrays as long as this one."""
        return int(self.buffer.nbytes) * size // 2


Collective = Max | Sum | AllToAll | AllGather
#: What a collective is and the NumPy dtype of its buffer; (None, "") where there is none.
Kind = tuple[type[Collective] | None, str]
Exchange = Generator[Collective, Any, None]


@dataclass(frozen=True)
class World:
    """The process set as a scheme sees it: ``size`` ranks, of which this is ``rank``; in a graph both are tensors."""

    size: Any
    rank: Any


@dataclass
class Bucket:
    """Tensors that travel together, with the persistent buffers they travel in.

    check: 1 .. 2^24 - 1, a digest of the settings and of every member; equal on all ranks or nothing is decoded.
    residuals: none, or what is left over of each member since the last step, which the exchange replaces.

    Schemes on the host have more: labels and shapes of the members (of a piece of a tensor its own length); memory,
    a dict of arrays for each member, which is kept from step to step and saved with the training run; scratch, which is
    kept as long as the bucket and not saved.
    """

    layout: Layout
    names: tuple[str, ...]
    check: int
    norms: Buffer
    words: Buffer
    tensors: Sequence[Buffer] = ()
    residuals: Sequence[Buffer] = ()
    step: int = 0
    labels: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    memory: Sequence[dict[str, np.ndarray]] = ()
    scratch: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of_arrays(cls, layout: Layout, check: int, labels: Sequence[str], **more: Any) -> Bucket:
        """One on the host that nothing was sent in yet, each member with a memory of its own that is empty.

        more: other fields; names are the labels unless given.
        """
        return cls(
            layout=layout,
            check=check,
            norms=np.zeros(layout.norms_numel, np.float32),
            words=np.zeros(layout.words_numel, np.int32),
            labels=tuple(labels),
            **{"names": tuple(labels), "memory": [{} for _ in labels], **more},
        )

    def write_header(self, valid: bool) -> None:
        """Put ``check`` into the header so that Max finds both its maximum and its minimum over the ranks.

        The complement, not the negative, carries the minimum: zeros from a joined rank then change neither.
        A rank that is not ``valid`` writes two numbers that can't belong together, whatever the others write.

        The step is there because dithers are drawn together: the ranks take the largest. They differ where one joined
        the others later, or did not come to some of their steps. Past 2^24 steps it begins again.
        """
        self.norms[2] = self.step % CHECK_RANGE
        self.norms[0] = self.check if valid else CHECK_RANGE
        self.norms[1] = CHECK_RANGE - self.check if valid else CHECK_RANGE

    def count_this_rank(self) -> None:
        """Write 1 into the header of the words, so that their sum counts the ranks that are in it."""
        self.words[0] = 1

    def per_contributor(self, scale: Any) -> Any:
        """``scale`` divided by the ranks whose words are in the sum: fewer than the world's after hvd.join."""
        return scale / int(self.words[0])

    def read_header(self) -> Any:
        """The step that all ranks take. Raises DisagreementError, on all of them, unless they wrote the same check."""
        low, high, step = self.norms[:NORMS_HEADER].tolist()
        if low != CHECK_RANGE - high:
            raise DisagreementError(self.disagreement)
        return int(step)

    @property
    def listed(self) -> str:
        """The first few names, for messages."""
        return _listed(self.names)

    @property
    def disagreement(self) -> str:
        """What to say when the check fails."""
        return (
            f"allreduce of {self.listed}: the ranks' settings or tensors differ (expected one common "
            "check value, got several); give every rank the same compression settings and the same shapes"
        )


class Scheme(Settings, ABC):
    """An algorithm with its settings: what travels, and how the result is read back."""

    @property
    def on_host(self) -> bool:
        """Whether buffers are NumPy arrays and ``collectives`` runs in Python in every step, in TensorFlow too."""
        return False

    @property
    def stages(self) -> Sequence[Sequence[Kind]]:
        """Of a scheme on the host, for a graph that is made first: what its collectives may be, in their order."""
        return ()

    @property
    def remembers(self) -> bool:
        """Whether an exchange goes on from the last one of the same tensors, which then need names."""
        return self.keeps_residuals

    @property
    def unnamed(self) -> str:
        """What is wrong with a tensor that has no name where ``remembers``."""
        why = "error_feedback=True" if self.keeps_residuals else f"compression={type(self).__name__}"
        return (
            f"with {why}: expected a name, by which to know the tensor again, got none; write "
            "hvd.allreduce(tensor, name='x', ...)"
        )

    @property
    def cuts_tensors(self) -> bool:
        """Whether a tensor larger than a bucket may come in pieces."""
        return True

    @abstractmethod
    def collectives(self, bucket: Bucket, kernels: Kernels, world: World, *, valid: bool = True) -> Exchange:
        """Yield the collectives that leave the bucket ready for ``decode``; reads ``bucket.tensors``.

        valid: False where this rank knows that its tensors are wrong; every rank then gets a DisagreementError.
        """

    @abstractmethod
    def decode(self, bucket: Bucket, kernels: Kernels, world: World, out: Sequence[Buffer], *, scale: float) -> None:
        """Write every member of a finished exchange into its own of ``out``, which may be ``bucket.tensors``.

        scale: what Horovod's own reduction makes of a 1 on every rank that took part: 1 for Average over all
        ranks, n for Sum, with the user's own factors on top. The result is scale * mean over those that took part.
        """

    @property
    def keeps_residuals(self) -> bool:
        """Whether buckets need ``residuals``."""
        return False

    @abstractmethod
    def bits_of(self, name: str, shape: Sequence[int]) -> int | None:
        """The width of a tensor's lanes; None where Horovod is to send it itself."""

    @abstractmethod
    def layout_settings(self) -> dict[str, Any]:
        """The settings that decide how members are written: arguments of ``Layout``."""

    def measure(self, bucket: Bucket, world: World) -> Measured:
        """What a finished exchange shows of its error, from its buffers as NumPy arrays."""
        return measure(bucket.layout, bucket.norms, bucket.words, world.size, int(bucket.words[0]))

    @abstractmethod
    def check_world(self, size: int) -> None:
        """Raise SettingsError where these settings can't serve ``size`` ranks."""

    def misfit(self, size: int) -> str:
        """What ``check_world`` has to say, for a rank that tells the others before anyone raises; empty if nothing."""
        try:
            self.check_world(size)
        except SettingsError as error:
            return str(error)
        return ""


def _listed(names: tuple[str, ...], most: int = 4) -> str:
    quoted = ", ".join(repr(name) for name in names[:most])
    return quoted if len(names) <= most else f"{quoted} and {len(names) - most} more"
