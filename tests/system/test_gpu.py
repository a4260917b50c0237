"""Which GPUs a run may use: nvidia-smi's answer, cut down to CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import os
import subprocess
import sys
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


# as NVIDIA's MIG user guide prints them
LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0/2/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
"""
TOLD = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log><driver_version>535.104.05</driver_version>
<gpu id="00000000:07:00.0"><uuid>GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0</uuid>
<mig_devices>
<mig_device><index>0</index><fb_memory_usage><total>20096 MiB</total></fb_memory_usage>
<bar1_memory_usage><total>32767 MiB</total></bar1_memory_usage></mig_device>
<mig_device><index>1</index><fb_memory_usage><total>N/A</total></fb_memory_usage></mig_device>
</mig_devices><fb_memory_usage><total>40960 MiB</total></fb_memory_usage></gpu>
<gpu id="00000000:08:00.0"><uuid>GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77</uuid>
<mig_devices><mig_device><index>0</index><fb_memory_usage><total>4864 MiB</total></fb_memory_usage></mig_device></mig_devices>
</gpu></nvidia_smi_log>
"""
FIRST = "MIG-c7384736-a75d-5afc-978f-d2f1294409fd"
OTHER = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
UNTOLD = "MIG-GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0/2/0"
WHOLE = [(line.split()[2:-2], line.split()[-1].rstrip(")")) for line in LISTED.splitlines() if line.startswith("GPU")]


@pytest.fixture
def mig(nvidia_smi, monkeypatch):
    """Two A100 in MIG mode; gives a function that sets CUDA_VISIBLE_DEVICES."""

    def show(told=TOLD):
        rows = [
            f"{number}, {uuid}, {' '.join(name)}, 40960, 535.104.05, Enabled"
            for number, (name, uuid) in enumerate(WHOLE)
        ]
        answers = {"-L": LISTED, "-q": told, "--query-gpu=": "\n".join(rows) + "\n"}
        nvidia_smi.says(
            f"#!{sys.executable}\nimport sys\n"
            f"print(next(said for asked, said in {answers!r}.items() if sys.argv[1].startswith(asked)), end='')\n"
        )
        return lambda visible: monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return show


@pytest.mark.parametrize(
    ("visible", "profile", "memory"),
    [(FIRST, "3g.20gb", 20096), (OTHER, "1g.5gb", 4864), (f"{OTHER},{FIRST}", "1g.5gb", 4864), (f"{FIRST},0", "3g.20gb", 20096)],
)  # fmt: skip
def test_a_mig_slice_is_one_gpu_of_its_own_memory(mig, visible, profile, memory):
    mig()(visible)
    assert gpu.find() == Gpus(f"NVIDIA A100-SXM4-40GB MIG {profile}", 1, memory, "535.104.05")
    assert gpu.indices() == []


@pytest.mark.parametrize(
    ("visible", "said"),
    [
        (UNTOLD, "says N/A for the memory of NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb"),
        ("MIG-c7384736", "does not list, MIG-c7384736"),
        (f"0,{FIRST}", f"whole GPUs and a MIG slice, {FIRST}"),
        ("0", "GPU 0 .NVIDIA A100-SXM4-40GB. is divided into MIG slices"),
    ],
)
def test_what_is_not_known_of_a_slice_is_refused_in_a_sentence(mig, visible, said):
    mig()(visible)
    with pytest.raises(NoGpu, match=said):
        gpu.find()


def test_slices_must_be_named(mig):
    mig()
    with pytest.raises(NoGpu, match=r"GPU 0 .* is divided into MIG slices") as caught:
        gpu.find()
    assert "nvidia-smi -L" in caught.value.remedy


@pytest.mark.parametrize(
    "told", ["", "No devices were found", TOLD.replace("<index>0", "<index>7"), TOLD.replace("GPU-", "")]
)
def test_a_slice_whose_memory_is_not_told_is_refused(mig, told):
    mig(told)(FIRST)
    with pytest.raises(NoGpu, match=r"says nothing for the memory of .* MIG 3g\.20gb"):
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
    row = "0, GPU-aaaa1111-0000, NVIDIA H100 80GB HBM3, 81559, 580.159.04, Disabled"
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
def test_a_hanging_nvidia_smi_is_not_the_same_as_no_gpu(nvidia_smi, monkeypatch, tmp_path, dies):
    nvidia_smi.says(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    monkeypatch.setattr(gpu, "_PATIENCE", 2.0)
    if not dies:  # as one that waits in the driver
        monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
    monkeypatch.setattr(gpu, "_KERNEL_DRIVER", tmp_path / "version")
    start = time.monotonic()
    with pytest.raises(NoGpu, match=r"nvidia-smi did not answer within 2\.0 s"):
        gpu.find()
    assert time.monotonic() - start < 10
    pid = int((tmp_path / "pid").read_text())
    if dies:
        assert gpu.driver() is None, "an environment may be made all the same"
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


def test_names_and_compute_capabilities(monkeypatch):
    monkeypatch.setattr(gpu, "_said", lambda *arguments: "NVIDIA H100 80GB HBM3, 9.0\nTesla T4, 7.5\n")
    assert gpu.names_and_capabilities() == [("NVIDIA H100 80GB HBM3", "9.0"), ("Tesla T4", "7.5")]

    def hangs(*arguments):
        raise NoGpu("nvidia-smi did not answer")

    monkeypatch.setattr(gpu, "_said", hangs)
    assert gpu.names_and_capabilities() == []
