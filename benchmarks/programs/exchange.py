"""One exchange with all its work against Horovod's plain allreduce of as many int32 words as it sends.

Beside both, what no exchange can beat where hosts share cores: the raw allreduce while the kernels run over the same
gradients, started together and with nothing to wait for in between.
"""

from __future__ import annotations

from typing import Any

import horovod.torch as hvd
import torch

from benchmarks.contenders.horovod import Horovod
from benchmarks.programs.rounds import WARM_UP, in_any_round, rounds
from benchmarks.workloads import WORKLOADS
from hvd_gqsgd.costs.machine import KernelPasses
from hvd_gqsgd.schemes import cutting
from hvd_gqsgd.torch import GlobalQSGD, traffic

#: What a pass of the kernels takes at once, whatever the buckets are.
PASS_BYTES = cutting.BUCKET_BYTES


def run(options: dict[str, Any]) -> dict[str, Any]:
    """model: whose gradients; bits; bucket_mib; seconds: for all rounds. Returns cells by what was measured."""
    torch.set_num_threads(int(options["threads"]))
    workload = WORKLOADS[options["model"]]()
    batch = workload.batch(0, hvd.rank())
    timed: dict[str, Any] = {}
    for bits in options["bits"]:
        for mib in options["bucket_mib"]:
            # Read when an optimizer's plan is made, in its first step.
            cutting.BUCKET_BYTES = int(mib * (1 << 20))
            rig = Horovod(workload, GlobalQSGD(bits=bits))
            for _ in range(WARM_UP):
                rig.reduced_gradient(batch)
            timed[f"exchange, {bits} bits, {mib:g} MiB"] = in_any_round(rig.aggregate)
        traffic.reset()
        rig.aggregate()
        words = torch.zeros(traffic.sent_bytes // 4, dtype=torch.int32)
        passes = KernelPasses(options["threads"], -(-traffic.dense_bytes // PASS_BYTES))
        timed[f"raw words, {bits} bits"] = in_any_round(_sum, words)
        timed[f"kernels beside raw words, {bits} bits"] = in_any_round(_sum_beside, words, passes, bits)
    return rounds(timed, float(options["seconds"]))


def _sum(words: torch.Tensor) -> None:
    hvd.allreduce_(words, name=f"raw {len(words)}", op=hvd.Sum)


def _sum_beside(words: torch.Tensor, passes: KernelPasses, bits: int) -> None:
    handle = hvd.allreduce_async_(words, name=f"raw {len(words)}", op=hvd.Sum)
    passes.norms()
    passes.encode(bits)
    passes.decode(bits)
    hvd.synchronize(handle)
