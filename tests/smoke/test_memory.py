"""Whose memory NVML counts, with an NVML and a torch of a few lines."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from verlock.smoke import memory

GIB = 2**30


@pytest.fixture
def nvml(monkeypatch):
    """A machine whose NVML lists what it is given; `taken` is what torch has taken in this process, in bytes."""
    state = SimpleNamespace(processes=lambda taken: [], taken=0)
    pynvml, torch = ModuleType("pynvml"), ModuleType("torch")
    pynvml.NVMLError = type("NVMLError", (Exception,), {})
    pynvml.nvmlInit = lambda: None
    pynvml.nvmlDeviceGetCount = lambda: 2
    pynvml.nvmlDeviceGetHandleByIndex = lambda index: index
    pynvml.nvmlDeviceGetComputeRunningProcesses = lambda index: [] if index else state.processes(state.taken)

    class Taken:
        def __init__(self, size, **where):
            state.taken += size
            self.size = size

        def __del__(self):
            state.taken -= self.size

    torch.empty, torch.uint8 = Taken, "uint8"
    torch.cuda = SimpleNamespace(
        empty_cache=lambda: None, synchronize=lambda: None, mem_get_info=lambda: (50 * GIB, 80 * GIB)
    )
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    monkeypatch.setitem(sys.modules, "torch", torch)
    state.pynvml = pynvml
    return state


def process(pid, used):
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


def test_this_process_is_counted_alone_where_nvml_sees_it(nvml):
    nvml.processes = lambda taken: [process(1, 9 * GIB), process(os.getpid(), GIB + taken)]
    assert memory.listed()
    assert memory.used(per_process=True) == 1.0
    assert memory.used(per_process=False) == 30.0


def test_another_process_that_has_its_number_is_not_taken_for_it(nvml):
    nvml.processes = lambda taken: [process(os.getpid(), GIB)]
    assert not memory.listed()


@pytest.mark.parametrize("used", [None, 0])
def test_a_process_without_a_figure_is_not_counted(nvml, used):
    nvml.processes = lambda taken: [process(os.getpid(), used)]
    assert not memory.listed()
    with pytest.raises(RuntimeError, match="no longer lists"):
        memory.used(per_process=True)


def test_without_nvml_the_device_is_counted(nvml):
    def refuse(*arguments):
        raise nvml.pynvml.NVMLError

    nvml.pynvml.nvmlDeviceGetComputeRunningProcesses = refuse
    assert not memory.listed()
    nvml.pynvml.nvmlInit = refuse
    assert not memory.listed()
