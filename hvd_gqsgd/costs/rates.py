"""What the model knows about one machine and its network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hvd_gqsgd.errors import SettingsError

#: Payloads that are reduced: plain gradients and norms, Horovod's fp16, and words.
DTYPES = ("float32", "float16", "int32")
#: Seconds that Horovod waits between two looks at its queue (HOROVOD_CYCLE_TIME's default).
CYCLE_S = 1e-3
#: Small allreduces that one operation of Horovod's takes: two to negotiate, with a warm response cache, and its own.
SMALL_COLLECTIVES = 3


@dataclass(frozen=True, kw_only=True)
class KernelSpeeds:
    """Gradient bytes (float32) per second and rank of each kernel at one width, while every rank runs it."""

    norms: float
    encode: float
    decode: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """One machine and network, seen from one rank, in seconds and bytes per second.

    source: "measured" in a running world, or "given" as a link's nominal figures.
    ranks: the size of the world that the figures are of.
    latency_s: one small allreduce, submitted and waited for: Horovod's cycle, negotiation and messages.
    hop_s: one small message from a rank to another.
    bandwidth: payload bytes per second and direction of a rank's link; at one size of world, all that costs every
        byte alike (protocol, copies, the allreduce's algorithm) is in it.
    reduce: dtype -> bytes per second at which a rank adds payloads; inf where that is not to be told from bandwidth.
    cast: float32 bytes per second of Horovod's fp16, there and back together.
    kernels: bits -> speeds of the kernels.
    plain_tensor_s, compressed_tensor_s: what each tensor costs beside its bytes, without and with compression.
    bucket_s: what each bucket after the first costs beside its bytes and kernels: Horovod's cycles in between.
    overlap: how much of the shorter of computing and communicating hides behind the longer, 0 to 1.
    error: relative error to expect of predictions.
    threads: that the kernels had on each rank.
    """

    source: str
    ranks: int
    latency_s: float
    hop_s: float
    bandwidth: float
    reduce: Mapping[str, float]
    cast: float
    kernels: Mapping[int, KernelSpeeds]
    plain_tensor_s: float
    compressed_tensor_s: float
    bucket_s: float
    overlap: float
    error: float
    threads: int

    def __post_init__(self) -> None:
        for name in ("latency_s", "hop_s", "plain_tensor_s", "compressed_tensor_s", "bucket_s", "error"):
            _require(name, getattr(self, name), "a number of 0 or more", lambda x: 0 <= x < math.inf)
        for name in ("bandwidth", "cast"):
            _require(name, getattr(self, name), "a number above 0", lambda x: 0 < x < math.inf)
        _require("ranks", self.ranks, "an integer of 1 or more", lambda x: x >= 1 and x == int(x))
        _require("overlap", self.overlap, "a number from 0 to 1", lambda x: 0 <= x <= 1)
        for dtype in DTYPES:
            _require(f"reduce[{dtype!r}]", self.reduce.get(dtype), "a number above 0, or null", lambda x: x > 0)
        for bits, speeds in self.kernels.items():
            for name, speed in asdict(speeds).items():
                _require(f"kernels[{bits}].{name}", speed, "a number above 0", lambda x: 0 < x < math.inf)

    def on_link(self, bandwidth: float) -> Rates:
        """The same machines on a link of ``bandwidth`` payload bytes per second."""
        return replace(self, bandwidth=bandwidth)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: null stands for it."""
        plain = asdict(self)
        plain["reduce"] = {k: None if math.isinf(v) else v for k, v in self.reduce.items()}
        plain["kernels"] = {str(bits): asdict(speeds) for bits, speeds in self.kernels.items()}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Rates:
        """The inverse of ``to_dict``. Raises SettingsError for what it did not write."""
        expected = [f.name for f in fields(cls)]
        if not isinstance(plain, Mapping) or set(plain) != set(expected):
            got = sorted(plain) if isinstance(plain, Mapping) else type(plain).__name__
            raise SettingsError(
                f"rates: expected an object with the keys {', '.join(expected)}; got {got}; "
                "write a file with `hvd-gqsgd advise --save-rates FILE`"
            )
        try:
            reduce = {k: math.inf if v is None else v for k, v in plain["reduce"].items()}
            kernels = {int(bits): KernelSpeeds(**speeds) for bits, speeds in plain["kernels"].items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise SettingsError(
                'rates: expected "reduce" as {dtype: bytes per second} and "kernels" as {bits: {norms, encode, '
                f"decode}}}}; got {plain['reduce']!r} and {plain['kernels']!r}; write the file with "
                "`hvd-gqsgd advise --save-rates FILE`"
            ) from error
        return cls(**{**plain, "reduce": reduce, "kernels": kernels})


def _require(name: str, value: Any, expected: str, holds: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not holds(value):
        raise SettingsError(
            f"rates: expected {name} to be {expected}, got {value!r}; correct it, or measure with "
            "`horovodrun -np 2 hvd-gqsgd advise --save-rates FILE`"
        )
