"""The ranks of a run, as torchrun's environment variables describe them, and which GPU each of them has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def take_place(gpus: int) -> None:
    """Give this rank its GPU where ranks have to share them; call it before torch is imported.

    NCCL refuses two ranks on one GPU only when both say they are on the same host. Here each says it is its own host, and they
    talk over the loopback interface: like several nodes with one GPU each, with LOCAL_RANK 0 on all of them.

    Args:
        gpus: how many GPUs the run has; ranks are given to them in turn.
    """
    rank = int(os.environ["RANK"])
    if int(os.environ["WORLD_SIZE"]) <= gpus:
        return
    os.environ["NCCL_HOSTID"] = f"rank{rank}"
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    os.environ["LOCAL_RANK"] = "0"
    if gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[rank % gpus]


class Ranks:
    """This process among the others; making one joins the default process group (NCCL on GPUs, gloo on the CPU)."""

    def __init__(self, device: str, tp: int, gpus: int, nodes: int = 1) -> None:
        import torch.distributed as dist

        self.rank = int(os.environ["RANK"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.size = int(os.environ["WORLD_SIZE"])
        self.tp = tp
        self.gpus = min(gpus, self.size)
        self.nodes = nodes
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.set_device(self.local_rank)
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        # What ranks tell each other goes through the CPU: with NCCL it would need the right current device and a GPU that
        # answers, and the gates are there to test just that.
        self._control = dist.new_group(backend="gloo")

    @property
    def first(self) -> bool:
        """Is this the rank that writes what all ranks of its node read? (Ranks that share a GPU all have local rank 0.)"""
        return self.rank == 0 or (self.nodes > 1 and self.local_rank == 0)

    @property
    def device(self) -> torch.device:
        """This rank's device."""
        import torch

        return torch.device("cuda", self.local_rank) if self._device == "cuda" else torch.device("cpu")

    def gather(self, mine: Any) -> list[Any]:
        """What every rank has, in rank order; collective."""
        import torch.distributed as dist

        everything: list[Any] = [None] * self.size
        dist.all_gather_object(everything, mine, group=self._control)
        return everything

    def barrier(self) -> None:
        """Wait for every rank."""
        self.gather(None)
