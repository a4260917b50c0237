"""The ranks of a run, as torchrun's environment variables name them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Ranks:
    """This process among the others; making one joins the default process group (NCCL on GPUs, gloo on the CPU)."""

    def __init__(self, device: str, tp: int) -> None:
        import torch.distributed as dist

        self.rank = int(os.environ["RANK"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.size = int(os.environ["WORLD_SIZE"])
        self.tp = tp
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.set_device(self.local_rank)
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        # What ranks tell each other goes through the CPU: on NCCL it would need the right current device and a GPU that answers,
        # which is what the gates are there to find out.
        self._control = dist.new_group(backend="gloo")

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
