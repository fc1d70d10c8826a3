"""PyTorch's DistributedDataParallel over Gloo, with the hooks that come with it."""

from __future__ import annotations

import os
from enum import Enum

import horovod.torch as hvd
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from benchmarks.contenders.base import Contender
from benchmarks.workloads import Workload

PORT = 29513


def start_gloo() -> None:
    """Join the ranks of Horovod's world in a Gloo process group, on the interface that the launcher chose."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["GQSGD_INTERFACE"]
    address = f"tcp://{os.environ['GQSGD_FIRST_HOST']}:{PORT}"
    dist.init_process_group("gloo", init_method=address, rank=hvd.rank(), world_size=hvd.size())


class Hook(Enum):
    """Communication hooks of DDP."""

    NONE = "none"
    FP16 = "fp16"
    POWERSGD_4 = "PowerSGD, rank 4"

    @property
    def bucket_mb(self) -> int:
        """DDP's default of 25, but one bucket for PowerSGD.

        Its hook starts each bucket's second and third collective from a callback. With two buckets ranks do that in
        different orders, Gloo pairs the wrong ones, and PyTorch 2.13 aborts ("Received data size doesn't match").
        """
        return 4096 if self is Hook.POWERSGD_4 else 25


class DDP(Contender):
    """One of DDP's hooks, with DDP's own buckets and overlap."""

    def __init__(self, workload: Workload, hook: Hook) -> None:
        super().__init__(workload)
        # Buffers are not what is compared, and views of buckets save DDP a copy.
        parallel = DistributedDataParallel(
            self.bare, forward_sync_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=hook.bucket_mb
        )
        if hook is Hook.FP16:
            parallel.register_comm_hook(None, default_hooks.fp16_compress_hook)
        elif hook is Hook.POWERSGD_4:
            # The hook's defaults, but for the uncompressed steps at the beginning: 2, the fewest it takes.
            state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=4, start_powerSGD_iter=2)
            parallel.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        self.model = parallel
