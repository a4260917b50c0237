"""How much GPU memory is in use: by this process alone where NVML lists it, else on the whole device."""

from __future__ import annotations

import os

GIB = 2**30


PROBE = 256 * 2**20  # bytes


def listed() -> bool:
    """Does NVML list this very process, and see what it takes? In a container NVML has other process numbers than we do.

    What is taken for the test tells this process from another one that happens to have its number.
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
    """GiB in use on the current CUDA device, with this process's unused cache given back first.

    Args:
        per_process: of this process alone (ask `listed` first), not of everybody on the device.
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
    """GiB that NVML counts for this process over all GPUs it shows; None where it does not list it.

    The module is nvidia-ml-py's, which vLLM brings; from 0.7.3 on vLLM has a copy of its own.
    """
    try:
        try:
            import pynvml
        except ImportError:
            from vllm.third_party import pynvml
        pynvml.nvmlInit()
    except Exception:  # not installed, or no NVML on this machine: each way the device is counted
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
    # Without the right to see it NVML lists a process with no figure.
    return sum(mine) / GIB if mine and all(mine) else None
