"""Preflight: what a machine must have, said before anything is downloaded."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple

import pytest

from verlock.env import preflight
from verlock.errors import DiskTooSmall, DriverTooOld, PlatformMismatch
from verlock.system import uv
from verlock.variant.chosen import choose

Usage = namedtuple("Usage", "total used free")
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


@pytest.fixture
def loaded():
    return choose("vllm073").recipe


@pytest.fixture
def no_gpu(tmp_path, monkeypatch):
    """Neither a kernel driver nor nvidia-smi; returns the folder on PATH and the file of the driver."""
    monkeypatch.setattr(preflight, "_KERNEL_DRIVER", tmp_path / "version")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def smi(folder, script):
    path = folder / "bin/nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "version"), [(TIGER, "535.104.05"), (OPEN, "580.159.04"), (SHORT, "470.82"), (CLANG, "570.86.15")]
)
def test_the_kernel_s_word_on_the_driver(no_gpu, text, version):
    (no_gpu / "version").write_text(text)
    assert preflight.driver() == version


def test_no_gpu(no_gpu):
    assert preflight.driver() is None


def test_nvidia_smi_where_the_kernel_says_nothing(no_gpu):
    smi(no_gpu, "echo 546.33; echo 546.33")
    assert preflight.driver() == "546.33"


@pytest.mark.parametrize("script", ["echo NVIDIA-SMI has failed; exit 9", "exit 0", "/bin/sleep 20"])
def test_nvidia_smi_that_fails_or_hangs(no_gpu, monkeypatch, script):
    monkeypatch.setattr(preflight, "_PATIENCE", 0.2)
    smi(no_gpu, script)
    assert preflight.driver() is None


@pytest.mark.parametrize("version", ["525.60.13", "525.60.14", "525.105.17", "580.159.04", "1000.1"])
def test_a_driver_that_is_new_enough(loaded, version):
    preflight.check_driver(loaded, version)


@pytest.mark.parametrize("version", ["525.60.12", "525.9.99", "470.82.01", "96.43"])
def test_a_driver_that_is_too_old(loaded, version):
    with pytest.raises(DriverTooOld) as caught:
        preflight.check_driver(loaded, version)
    assert version in caught.value.problem and "525.60.13 or newer" in caught.value.problem


@pytest.mark.parametrize("libc", [("glibc", "2.17"), ("glibc", "2.27"), ("", ""), ("musl", "1.2")])
def test_another_c_library(loaded, monkeypatch, libc):
    monkeypatch.setattr(preflight.platform, "libc_ver", lambda: libc)
    with pytest.raises(PlatformMismatch, match=r"needs glibc 2\.28"):
        preflight.system(loaded)


@pytest.mark.parametrize("version", ["2.28", "2.31", "2.100", "3.0"])
def test_a_c_library_that_is_new_enough(loaded, monkeypatch, version):
    monkeypatch.setattr(preflight.platform, "libc_ver", lambda: ("glibc", version))
    preflight.system(loaded)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_another_machine(loaded, monkeypatch, system, machine):
    monkeypatch.setattr(preflight.platform, "system", lambda: system)
    monkeypatch.setattr(preflight.platform, "machine", lambda: machine)
    with pytest.raises(PlatformMismatch, match=f"this is {system} on {machine}"):
        preflight.system(loaded)


class TestDisk:
    """Free bytes and caches as each test needs them: the prefix at <tmp>/a, uv's cache at <tmp>/b."""

    @pytest.fixture
    def disk(self, loaded, tmp_path, monkeypatch):
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        monkeypatch.setattr(uv, "cache", lambda: tmp_path / "b/uv")

        def check(*, free, cache_free=None, cached=False):
            other = cache_free is not None
            stat = os.stat_result
            monkeypatch.setattr(
                preflight.shutil,
                "disk_usage",
                lambda place: Usage(0, 0, cache_free if other and place == tmp_path / "b" else free),
            )
            monkeypatch.setattr(uv, "cached", lambda *arguments: cached)
            real = preflight.Path.stat

            def status(self, **more):
                result = real(self, **more)
                if other and self == tmp_path / "b":
                    return stat([*result[:2], result[2] + 1, *result[3:]])
                return result

            monkeypatch.setattr(preflight.Path, "stat", status)
            preflight.disk(loaded, "3.10", tmp_path / "a/envs/vllm073")

        return check

    def test_enough(self, disk):
        disk(free=8.1e9)

    def test_too_small_with_both_figures_and_the_place(self, disk, tmp_path):
        with pytest.raises(DiskTooSmall) as caught:
            disk(free=3.21e9)
        assert f"{tmp_path / 'a'} has 3.2 GB free, vllm073 takes up to 8.0 GB" in caught.value.problem
        assert "VERLOCK_ENVS" in caught.value.remedy and "UV_CACHE_DIR" in caught.value.remedy

    def test_a_second_environment_needs_little_when_all_is_cached_on_the_same_disk(self, disk):
        disk(free=1e9, cached=True)
        with pytest.raises(DiskTooSmall, match=r"0\.5 GB free, vllm073 takes up to 0\.8 GB"):
            disk(free=0.5e9, cached=True)

    def test_a_cache_on_another_disk_saves_nothing(self, disk):
        with pytest.raises(DiskTooSmall):
            disk(free=1e9, cache_free=100e9, cached=True)

    def test_a_cache_on_a_small_home_is_seen_before_the_download_fills_it(self, disk, tmp_path):
        with pytest.raises(DiskTooSmall, match=f"{tmp_path / 'b'} has 2.0 GB free"):
            disk(free=100e9, cache_free=2e9)
        disk(free=100e9, cache_free=2e9, cached=True)


def test_the_real_cache_is_asked(loaded, tmp_path, monkeypatch):
    """An empty cache holds nothing of the lock: the real uv says so, without a network."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path))
    assert uv.cache() == tmp_path
    lock = choose(loaded.name).locks / "requirements.txt"
    assert not uv.cached(lock, "3.10", ["antlr4-python3-runtime"])


def test_a_compiler_is_asked_for_where_the_engine_compiles(no_gpu, monkeypatch, capsys):
    monkeypatch.delenv("CC", raising=False)
    preflight.compiler(choose("vllm073").recipe, no_gpu)
    assert capsys.readouterr().err == ""
    preflight.compiler(choose("v1").recipe, no_gpu)
    assert "no C compiler" in capsys.readouterr().err
    shutil.copy("/bin/true", no_gpu / "bin/gcc")
    preflight.compiler(choose("v1").recipe, no_gpu)
    assert capsys.readouterr().err == ""


def test_versions_as_numbers():
    assert preflight.numbers("525.60.13") == (525, 60, 13) < preflight.numbers("525.105")
