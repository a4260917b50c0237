"""The GPUs and their driver: what the kernel says, what nvidia-smi says, and what neither says."""

from __future__ import annotations

import pytest

from verlock.system import gpu

TIGER = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n"
    "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22-I3-AF01-10-1)  "
    "Tue Jan 13 22:10:34 UTC 2026\nGCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)\n"
)
SHORT = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82  Wed Oct 27 21:21:55 UTC 2021\nGCC version:  \n"
CLANG = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (root@host)  \n"
    "GCC version:  clang version 18.1.8\n"
)
H100 = "NVIDIA H100 80GB HBM3, 81559, 580.159.04"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Neither a kernel driver nor nvidia-smi; returns the folder on PATH and the file of the driver."""
    monkeypatch.setattr(gpu, "_KERNEL_DRIVER", tmp_path / "version")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def smi(folder, script):
    path = folder / "bin/nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "version"),
    [(TIGER, "535.104.05"), (OPEN, "580.159.04"), (SHORT, "470.82"), (CLANG, "570.86.15")],
    ids=["closed", "open", "short", "clang"],
)
def test_the_kernel_s_word_on_the_driver(machine, text, version):
    (machine / "version").write_text(text)
    smi(machine, "echo 1.1")
    assert gpu.driver() == version


def test_no_gpu(machine):
    assert gpu.driver() is None and gpu.find() is None


@pytest.mark.parametrize("text", ["", "NVRM version: none\n"])
def test_nvidia_smi_where_the_kernel_says_nothing(machine, text):
    (machine / "version").write_text(text)
    smi(machine, "echo 546.33; echo 546.33")
    assert gpu.driver() == "546.33"


@pytest.mark.parametrize(
    "script",
    [
        "echo NVIDIA-SMI has failed; exit 9",
        f"echo '{H100}'; exit 9",
        "echo NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.",
        "exit 0",
        "echo",
        "/bin/sleep 20",
        "exec /nowhere",
    ],
)
def test_nvidia_smi_that_fails_or_hangs(machine, monkeypatch, script):
    monkeypatch.setattr(gpu, "_PATIENCE", 0.2)
    monkeypatch.setattr(gpu, "_LONG_PATIENCE", 0.2)
    smi(machine, script)
    assert gpu.find() is None
    if "communicate" not in script:  # a sentence without a comma is one field, as a driver's version is
        assert gpu.driver() is None


def test_what_is_no_program(machine):
    (machine / "bin/nvidia-smi").write_text("nonsense")
    (machine / "bin/nvidia-smi").chmod(0o755)
    assert gpu.driver() is None and gpu.find() is None


def test_the_gpus_are_read_from_nvidia_smi(machine):
    smi(machine, f"echo \"$@\" > {machine}/asked; echo '{H100}'; echo '{H100}'")
    assert gpu.find() == gpu.Gpus("NVIDIA H100 80GB HBM3", 2, 81559, "580.159.04")
    assert (
        machine / "asked"
    ).read_text() == "--query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits\n"


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("1,0", 2), ("GPU-5f2a, GPU-77aa", 2), (" 1 ", 1), ("0,", 1)])
def test_hidden_gpus_do_not_count(machine, monkeypatch, visible, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    smi(machine, f"echo '{H100}'; echo '{H100}'")
    assert gpu.find().count == count


@pytest.mark.parametrize("visible", ["", "-1", " "])
def test_all_hidden_is_none(machine, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    smi(machine, f"echo '{H100}'")
    assert gpu.find() is None


def test_many_gpus_may_take_longer_than_a_question_about_the_driver(machine, monkeypatch):
    assert gpu._LONG_PATIENCE >= 60
    monkeypatch.setattr(gpu, "_PATIENCE", 0.1)
    smi(machine, f"/bin/sleep 0.5; echo '{H100}'")
    assert gpu.find() is not None
