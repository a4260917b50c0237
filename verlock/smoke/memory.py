"""How much GPU memory is in use: by this process alone where NVML lists it, else on the whole device."""

from __future__ import annotations

import os

GIB = 2**30


PROBE = 256 * 2**20  # bytes


def listed() -> bool:
    """Does NVML list this very process and see its memory? In a container, NVML uses other process numbers than we do.

    Memory taken for the test tells this process from another one that happens to have its number.
    """
    import torch

    before = _of_this_process()
    if before is None:
        return False
    torch.cuda.empty_cache()
    taken = torch.empty(PROBE, dtype=torch.uint8, device="cuda")
    after = _of_this_process()
    del taken
    torch.cuda.empty_cache()
    return after is not None and after - before > PROBE / GIB / 2


def used(per_process: bool) -> float:
    """GiB in use on the current CUDA device, after giving back this process's unused cache.

    Args:
        per_process: only by this process (ask `listed` first), not by everyone on the device.
    """
    import gc

    import torch

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    if per_process:
        mine = _of_this_process()
        if mine is None:
            raise RuntimeError("NVML no longer lists this process")
        return mine
    free, total = torch.cuda.mem_get_info()
    return float(total - free) / GIB


def _of_this_process() -> float | None:
    """GiB that NVML counts for this process on all GPUs; None if it does not list the process.

    The module is nvidia-ml-py's, which vLLM brings; from 0.7.3 on vLLM has a copy of its own.
    """
    try:
        try:
            import pynvml
        except ImportError:
            from vllm.third_party import pynvml
        pynvml.nvmlInit()
    except Exception:  # not installed, or no NVML on this machine: then the whole device is counted
        return None
    try:
        running = [
            process
            for index in range(pynvml.nvmlDeviceGetCount())
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(index))
        ]
    except pynvml.NVMLError:
        return None
    mine = [process.usedGpuMemory for process in running if process.pid == os.getpid()]
    # Without permission to see it, NVML lists a process without a figure.
    return sum(mine) / GIB if mine and all(mine) else None
