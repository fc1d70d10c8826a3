"""Who is compared: Horovod alone, with fp16, with GlobalQSGD; PyTorch's DDP alone, with its fp16 and PowerSGD hooks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import horovod.torch as hvd

from benchmarks.contenders.base import Contender
from benchmarks.contenders.ddp import DDP, Hook, start_gloo
from benchmarks.contenders.horovod import Horovod
from benchmarks.contenders.local import Local
from benchmarks.workloads import Workload
from hvd_gqsgd.torch import DQSGD, GlobalQSGD, GradiVeQ, Marsit

#: So short that a measurement of some seconds is mostly of compressed steps.
GRADIVEQ_PHASES = {"warm_up_steps": 0, "sample_steps": 8, "compress_steps": 1000}

CONTENDERS: dict[str, Callable[[Workload], Contender]] = {
    "local": Local,
    "hvd none": partial(Horovod, compression=hvd.Compression.none),
    "hvd fp16": partial(Horovod, compression=hvd.Compression.fp16),
    "gqsgd8": partial(Horovod, compression=GlobalQSGD(bits=8)),
    "gqsgd6": partial(Horovod, compression=GlobalQSGD(bits=6)),
    "gqsgd4": partial(Horovod, compression=GlobalQSGD(bits=4)),
    "gqsgd8 unrotated": partial(Horovod, compression=GlobalQSGD(bits=8, rotation=None)),
    "gqsgd4 unrotated": partial(Horovod, compression=GlobalQSGD(bits=4, rotation=None)),
    "gqsgd8 two-phase": partial(Horovod, compression=GlobalQSGD(bits=8, exchange="two_phase")),
    "gqsgd4 two-phase": partial(Horovod, compression=GlobalQSGD(bits=4, exchange="two_phase")),
    "exponential8": partial(Horovod, compression=GlobalQSGD(levels="exponential", rotation=None)),
    "exponential4": partial(Horovod, compression=GlobalQSGD(bits=4, levels="exponential", rotation=None)),
    "dqsgd4": partial(Horovod, compression=DQSGD(bits=4.0)),
    "marsit100": partial(Horovod, compression=Marsit(sync_every=100)),
    "gradiveq": partial(Horovod, compression=GradiVeQ(**GRADIVEQ_PHASES)),
    "gradiveq 512": partial(Horovod, compression=GradiVeQ(slice_numel=512, **GRADIVEQ_PHASES)),
    "ddp none": partial(DDP, hook=Hook.NONE),
    "ddp fp16": partial(DDP, hook=Hook.FP16),
    "ddp powersgd4": partial(DDP, hook=Hook.POWERSGD_4),
}

__all__ = ["CONTENDERS", "Contender", "start_gloo"]
