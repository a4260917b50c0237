"""Preflight: what a machine must have, said before anything is downloaded."""

from __future__ import annotations

import json
import os
from collections import namedtuple

import pytest
import toy

from verlock.env import preflight
from verlock.errors import (
    DiskTooSmall,
    DriverTooOld,
    GpuUnsupported,
    LockError,
    PatchRejected,
    PlatformMismatch,
    StaleLock,
    ToolMissing,
)
from verlock.sources import git_commit, source_wheel
from verlock.system import gpu, uv
from verlock.variant import checkouts, receipt
from verlock.variant.chosen import choose

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def loaded():
    return choose("vllm073").recipe


def test_the_driver_is_asked_for_only_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(preflight, "system", lambda recipe: None)
    monkeypatch.setattr(preflight, "disk", lambda chosen: None)
    monkeypatch.setattr(gpu, "driver", lambda: None)
    preflight.run(choose("vllm073"), editable={})
    monkeypatch.setattr(gpu, "driver", lambda: "470.82")
    with pytest.raises(DriverTooOld, match=r"470\.82"):
        preflight.run(choose("vllm073"), editable={})


@pytest.mark.parametrize("part", ["system", "disk"])
def test_each_part_is_asked(monkeypatch, part):
    asked = []
    for name in ("system", "disk"):
        monkeypatch.setattr(preflight, name, lambda about, name=name: asked.append(name))
    monkeypatch.setattr(gpu, "driver", lambda: None)
    preflight.run(choose("vllm073"), editable={})
    assert part in asked


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


class TestSources:
    """What is found missing or broken before a byte is downloaded."""

    @pytest.fixture(autouse=True)
    def _unasked(self, monkeypatch):
        monkeypatch.setattr(git_commit, "store", lambda source: pytest.fail("a source was fetched"))

    def test_what_is_in_order(self, clone, monkeypatch):
        assert preflight.sources(choose("vllm073"), editable={}) is None

    @pytest.mark.parametrize("text", ["{", "[]", '{"patches": []}', '{"patches": [{"touches": []}], "wheel": null}'])
    def test_a_broken_sources_json(self, clone, text):
        (clone / "locks/vllm073/sources.json").write_text(text)
        with pytest.raises(LockError, match="is not a lock of sources"):
            preflight.sources(choose("vllm073"), editable={})

    def test_no_sources_json(self, clone):
        for name, error, said in (
            ("vllm073", StaleLock, "after the lock was made"),
            ("v1", LockError, "names no wheel"),
        ):
            (clone / f"locks/{name}/sources.json").unlink()
            with pytest.raises(error, match=said):
                preflight.sources(choose(name), editable={})

    def test_a_source_without_a_wheel_in_the_lock(self, clone):
        path = clone / "locks/v1/sources.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "wheel": None}))
        with pytest.raises(LockError, match="names no wheel"):
            preflight.sources(choose("v1"), editable={})

    def test_a_missing_patch_file(self, clone):
        (patch,) = (clone / "recipes/vllm073").glob("**/*.patch")
        patch.unlink()
        with pytest.raises(PatchRejected, match="there is no"):
            preflight.sources(choose("vllm073"), editable={})

    def test_an_edited_patch_file(self, clone):
        (patch,) = (clone / "recipes/vllm073").glob("**/*.patch")
        patch.write_text("A line more.\n" + patch.read_text())
        with pytest.raises(StaleLock):
            preflight.sources(choose("vllm073"), editable={})

    def test_no_git(self, clone, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ToolMissing):
            preflight.sources(choose("vllm073"), editable={})

    @pytest.mark.parametrize(("there", "editable", "asked"), [(True, "", 0), (True, "verl", 1), (False, "", 1)])
    def test_the_commit_is_fetched_now_where_it_will_be_needed(
        self, clone, monkeypatch, tmp_path, there, editable, asked
    ):
        wheel = tmp_path / "vllm.whl" if there else None
        fetched = []
        monkeypatch.setattr(source_wheel, "cached", lambda recipe, locked: wheel)
        monkeypatch.setattr(git_commit, "store", fetched.append)
        chosen = choose("v1")
        wanted = {editable: checkouts.find(chosen, editable)} if editable else {}
        assert preflight.sources(chosen, editable=wanted) == wheel
        assert len(fetched) == asked


class TestDisk:
    """Free bytes and caches as each test needs them: the prefix at <tmp>/a, uv's cache at <tmp>/b."""

    @pytest.fixture
    def disk(self, tmp_path, monkeypatch):
        monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "a/envs"))
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
            preflight.disk(choose("vllm073"))

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

    def test_what_can_be_deleted_is_named_with_what_that_frees(self, disk, tmp_path):
        for name, size in (("vllm072", 60), ("small", 1)):
            folder = tmp_path / "a/envs" / name
            folder.mkdir(parents=True)
            (folder / receipt.NAME).write_text("{}")
            (folder / "own").write_bytes(os.urandom(size << 20))
        with pytest.raises(DiskTooSmall) as caught:
            disk(free=1e9)
        assert f"deleting frees: {tmp_path / 'a/envs/vllm072'} 0.1 GB;" in caught.value.remedy

    def test_healing_takes_what_the_damaged_one_does_not_share_with_the_cache(self, disk, monkeypatch):
        chosen = choose("vllm073")
        chosen.prefix.mkdir(parents=True)
        sealed = toy.SEALED | {"schema": receipt.SCHEMA, "prefix": str(chosen.prefix)}
        receipt.write(chosen.prefix, {**sealed, "digest": chosen.digest})
        monkeypatch.setattr(preflight, "own_bytes", lambda folder: int(1.5e9))
        disk(free=2.4e9)
        with pytest.raises(DiskTooSmall, match=r"2\.2 GB free, vllm073 takes up to 2\.3 GB"):
            disk(free=2.2e9)
        receipt.write(chosen.prefix, {**sealed, "digest": "another"})
        with pytest.raises(DiskTooSmall, match=r"takes up to 8\.0 GB"):
            disk(free=2.4e9)

    def test_a_cache_on_another_disk_saves_nothing(self, disk):
        with pytest.raises(DiskTooSmall):
            disk(free=1e9, cache_free=100e9, cached=True)

    def test_a_cache_on_a_small_home_is_seen_before_the_download_fills_it(self, disk, tmp_path):
        with pytest.raises(DiskTooSmall, match=f"{tmp_path / 'b'} has 2.0 GB free"):
            disk(free=100e9, cache_free=2e9)
        disk(free=100e9, cache_free=2e9, cached=True)


def test_the_real_cache_is_asked(tmp_path, monkeypatch):
    """An empty cache holds nothing of the lock: the real uv says so, without a network."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path))
    assert uv.cache() == tmp_path
    assert not uv.cached(choose("vllm073").pip_layer(), "3.10")


H100, T4, B200 = ("NVIDIA H100 80GB HBM3", "9.0"), ("Tesla T4", "7.5"), ("NVIDIA B200", "10.0")


def with_kernels(*capabilities):
    loaded = choose("vllm073").recipe
    return loaded.model_copy(update={"torch": loaded.torch.model_copy(update={"capabilities": list(capabilities)})})


@pytest.mark.parametrize(
    ("kernels", "gpus"),
    [
        (["8.0", "9.0"], [H100]),
        (["8.0"], [("NVIDIA L4", "8.9")]),
        (["10.0"], [B200]),
        (["9.0"], [T4, H100]),  # the one is for the screen
        (["9.0"], []),
    ],
)
def test_a_gpu_that_torch_has_kernels_for(kernels, gpus):
    preflight.check_gpus(with_kernels(*kernels), gpus)


@pytest.mark.parametrize(
    ("kernels", "gpus", "said"),
    [
        (["8.0", "9.0"], [T4], r"Tesla T4 \(compute capability 7\.5\); it has some for 8\.0, 9\.0"),
        (["8.0", "9.0"], [B200], r"NVIDIA B200 \(compute capability 10\.0\)"),
        (["8.6"], [("NVIDIA A100", "8.0"), T4, T4], r"NVIDIA A100 .*8\.0\), Tesla T4 .*7\.5\); it"),
    ],
)
def test_a_gpu_without_kernels_is_refused_by_its_name(kernels, gpus, said):
    with pytest.raises(GpuUnsupported, match=said):
        preflight.check_gpus(with_kernels(*kernels), gpus)


def test_the_gpus_are_asked_only_where_the_recipe_names_kernels(monkeypatch):
    for name in ("system", "disk", "sources"):
        monkeypatch.setattr(preflight, name, lambda *about: None)
    monkeypatch.setattr(gpu, "driver", lambda: "1000.1")
    monkeypatch.setattr(gpu, "names_and_capabilities", lambda: [T4])
    chosen = choose("vllm073")
    preflight.run(chosen, editable={})
    vars(chosen)["recipe"] = with_kernels("9.0")
    with pytest.raises(GpuUnsupported):
        preflight.run(chosen, editable={})
