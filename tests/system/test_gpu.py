"""Which GPUs a run may use: nvidia-smi's answer, cut down to CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from verlock.errors import NoGpu
from verlock.system import gpu
from verlock.system.gpu import Gpus

H100 = ("NVIDIA H100 80GB HBM3", 81559, "580.159.04", "GPU-aaaa1111-0000")
L4 = ("NVIDIA L4", 23034, "580.159.04", "GPU-aaaa2222-0000")
T4 = ("Tesla T4", 15360, "580.159.04", "GPU-bbbb3333-0000")


def test_the_gpus_are_read_from_nvidia_smi(nvidia_smi):
    nvidia_smi(H100, H100)
    assert gpu.find() == Gpus("NVIDIA H100 80GB HBM3", 2, 81559, "580.159.04")


@pytest.mark.parametrize(
    ("visible", "first", "count"),
    [
        ("0", H100, 1),
        ("1", L4, 1),
        ("2,1", T4, 2),
        (" 1 , 2 ", L4, 2),
        ("GPU-aaaa2222-0000", L4, 1),
        ("GPU-bbbb", T4, 1),
        ("GPU-bbbb3333-0000,GPU-aaaa1111-0000,1", T4, 3),
    ],
)
def test_the_first_visible_gpu_is_the_one_that_is_named(nvidia_smi, monkeypatch, visible, first, count):
    nvidia_smi(H100, L4, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    name, memory, driver, _ = first
    assert gpu.find() == Gpus(name, count, memory, driver)


@pytest.mark.parametrize(
    ("visible", "count"),
    [("1,-1,0", 1), ("1,9,0", 1), ("0,1,", 2), ("1,GPU-cccc,0", 1), ("1,GPU-aaaa", 1), ("1,,0", 1)],
)
def test_what_names_no_gpu_hides_all_that_come_after_it(nvidia_smi, monkeypatch, visible, count):
    nvidia_smi(H100, L4, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu.find().count == count


@pytest.mark.parametrize("visible", ["", "-1", "3", "GPU-aaaa", "GPU-", "none", "-1,0"])
def test_where_all_are_hidden_there_is_none(nvidia_smi, monkeypatch, visible):
    nvidia_smi(H100, L4, T4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu.find() is None


@pytest.mark.parametrize("visible", ["MIG-5e5c1cd0-0000", "MIG-GPU-aaaa1111-0000/1/0", "0,MIG-5e5c1cd0-0000"])
def test_a_mig_slice_is_refused_by_name(nvidia_smi, monkeypatch, visible):
    nvidia_smi(H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(NoGpu, match=f"a MIG slice, {visible.removeprefix('0,')}"):
        gpu.find()


@pytest.mark.parametrize("memory", ["[N/A]", "[Insufficient Permissions]", "0"])
def test_a_gpu_whose_memory_is_not_told_is_refused_in_a_sentence(nvidia_smi, monkeypatch, memory):
    nvidia_smi(H100, ("NVIDIA GB10", memory, "580.159.04"))
    assert gpu.find().count == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(NoGpu) as caught:
        gpu.find()
    assert f"nvidia-smi says {memory} for the memory of NVIDIA GB10" in caught.value.problem


def test_a_nvidia_smi_without_a_driver_shows_no_gpu(nvidia_smi):
    nvidia_smi.says(
        "#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'\nexit 9\n"
    )
    assert gpu.find() is None


def test_rows_of_a_nvidia_smi_that_failed_do_not_count(nvidia_smi):
    row = "0, GPU-aaaa1111-0000, NVIDIA H100 80GB HBM3, 81559, 580.159.04"
    nvidia_smi.says(f"#!/bin/sh\necho '{row}'\n")
    assert gpu.find().count == 1
    nvidia_smi.says(f"#!/bin/sh\necho '{row}'\nexit 15\n")
    assert gpu.find() is None


def test_without_nvidia_smi_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.find() is None


def test_one_that_cannot_be_started_shows_no_gpu(nvidia_smi):
    nvidia_smi.says("#!/no/such/interpreter\n")
    assert gpu.find() is None


@pytest.mark.parametrize("dies", [True, False])
def test_a_hanging_nvidia_smi_is_no_gpu_within_its_patience(nvidia_smi, monkeypatch, tmp_path, dies):
    nvidia_smi.says(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    monkeypatch.setattr(gpu, "_PATIENCE", 2.0)
    if not dies:  # as one that waits in the driver
        monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    start = time.monotonic()
    assert gpu.find() is None
    assert time.monotonic() - start < 10
    pid = int((tmp_path / "pid").read_text())
    if dies:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    else:
        os.kill(pid, 9)


def test_the_kernel_names_the_driver_first(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi(H100)
    version = tmp_path / "version"
    monkeypatch.setattr(gpu, "_KERNEL_DRIVER", version)
    assert gpu.driver() == "580.159.04"
    version.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n")
    assert gpu.driver() == "550.54.15"


def test_a_machine_without_either_has_no_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "_KERNEL_DRIVER", tmp_path / "version")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.driver() is None
