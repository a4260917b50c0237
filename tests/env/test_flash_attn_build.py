"""Building flash-attn from its sdist: the compiler, the kernels that are left out, and a build that is cut off and goes on."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import tarfile

import fakeindex
import pytest
import toy

from verlock.env import create, flash_attn_build
from verlock.env.flash_attn_build import Options
from verlock.errors import BuildError, CompilerMissing, NetworkError, NotSealed
from verlock.system import files
from verlock.variant import receipt
from verlock.variant.chosen import choose
from verlock.variant.recipe import ArtefactSdist

READ = receipt.read
KERNELS = "csrc/flash_attn/src"
FORWARD = "template<>\nvoid run_mha_fwd_<cutlass::{type}, {dim}, true>(Flash_fwd_params &p, cudaStream_t s) {{\n    work();\n}}\n"
SPLIT = (
    "template void run_mha_fwd_splitkv_dispatch<cutlass::{type}, {dim}, true>(Flash_fwd_params &p, cudaStream_t s);\n"
)


def kernel(folder, name, text, dim=64, type="bfloat16_t"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f'#include "x.h"\nnamespace A {{\n{text.format(dim=dim, type=type)}}}\n')


def header(folder):
    """What flash.h declares."""
    of = "template<typename T, int Headdim, bool Is_causal> void "
    names = ("run_mha_fwd_", "run_mha_fwd_splitkv_dispatch")
    lines = [f"{of}{name}(Flash_fwd_params &params, cudaStream_t stream);" for name in names]
    (folder / "flash.h").write_text("\n".join(["#pragma once", *lines, ""]))


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
    """A CUDA_HOME whose nvcc says it is of this version."""

    def make(version):
        path = tmp_path / f"cuda-{version}" / "bin" / "nvcc"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.131'\n")
        path.chmod(0o755)
        return path

    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", os.defpath)
    return make


# the compiler -----------------------------------------------------------------------------------------


def test_cuda_home_is_asked_first_then_path(nvcc, monkeypatch):
    home, path = nvcc("12.4"), nvcc("12.8")
    monkeypatch.setenv("PATH", str(path.parent))
    assert flash_attn_build.compiler("12.8") == path
    monkeypatch.setenv("CUDA_HOME", str(home.parent.parent))
    assert flash_attn_build.compiler("12.4") == home


@pytest.mark.parametrize("there", [None, "12.8", "11.4"])
def test_another_version_or_none_is_refused_with_what_to_do(nvcc, monkeypatch, there):
    if there:
        monkeypatch.setenv("CUDA_HOME", str(nvcc(there).parent.parent))
    with pytest.raises(CompilerMissing) as caught:
        flash_attn_build.compiler("12.4")
    assert caught.value.exit_code == 36 and (there or "no nvcc") in caught.value.problem
    assert "CUDA_HOME" in caught.value.remedy and "12.4" in caught.value.remedy


# kernels ----------------------------------------------------------------------------------------------


def test_kernels_that_are_not_asked_for_become_functions_that_throw(tmp_path):
    folder = tmp_path / KERNELS
    kernel(folder, "flash_fwd_hdim64_bf16_causal_sm80.cu", FORWARD)
    kernel(folder, "flash_fwd_hdim96_bf16_causal_sm80.cu", FORWARD, dim=96)
    kernel(folder, "flash_fwd_split_hdim64_fp16_causal_sm80.cu", SPLIT, type="half_t")
    header(folder)
    before = (folder / "flash_fwd_hdim64_bf16_causal_sm80.cu").read_text()
    assert flash_attn_build.leave_out(tmp_path, Options(head_dims=(64,), dtypes=("bf16",))) == 2
    assert (folder / "flash_fwd_hdim64_bf16_causal_sm80.cu").read_text() == before
    left = (folder / "flash_fwd_hdim96_bf16_causal_sm80.cu").read_text()
    assert "work()" not in left and "throw" in left and "head size 96, bf16" in left
    assert "template<> void run_mha_fwd_<cutlass::bfloat16_t, 96, true>(Flash_fwd_params &p, cudaStream_t s) {" in left
    split = (folder / "flash_fwd_split_hdim64_fp16_causal_sm80.cu").read_text()
    assert "template<> void run_mha_fwd_splitkv_dispatch<cutlass::half_t, 64, true>(" in split and "throw" in split
    assert (
        "template<typename T, int Headdim, bool Is_causal> void run_mha_fwd_(Flash_fwd_params &params, cudaStream_t stream);"
        in left
    )
    assert "cutlass/" not in left and '"flash.h"' not in left, "these headers are what takes long"


def test_a_kernel_that_the_header_does_not_declare_is_no_guess(tmp_path):
    kernel(tmp_path / KERNELS, "flash_fwd_hdim96_bf16_causal_sm80.cu", FORWARD, dim=96)
    with pytest.raises(BuildError, match=r"flash\.h does not declare run_mha_fwd_, which flash_fwd_hdim96"):
        flash_attn_build.leave_out(tmp_path, Options(head_dims=(64,)))


def test_with_all_kernels_no_file_changes(tmp_path):
    kernel(tmp_path / KERNELS, "flash_fwd_hdim64_bf16_causal_sm80.cu", FORWARD)
    assert flash_attn_build.leave_out(tmp_path, Options()) == 0
    assert not Options().partial and Options(dtypes=("bf16",)).partial
    assert not Options(dtypes=("bf16", "fp16"), head_dims=(256, 192, 128, 96, 64, 32)).partial


@pytest.mark.parametrize("name, text", [("new_kind.cu", FORWARD), ("flash_bwd_hdim96_bf16_sm80.cu", FORWARD + FORWARD)])
def test_a_file_of_another_form_is_no_guess(tmp_path, name, text):
    kernel(tmp_path / KERNELS, name, text, dim=96)
    with pytest.raises(BuildError, match=name):
        flash_attn_build.leave_out(tmp_path, Options(head_dims=(64,)))


# the sdist --------------------------------------------------------------------------------------------


def test_the_sdist_comes_from_the_index_by_its_hash_and_is_kept(clone, monkeypatch):
    with fakeindex.serve() as index:
        sha256 = index.sdist("flash-attn", "2.8.3", "2025-08-15")
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        with pytest.raises(NetworkError, match=r"has no flash-attn-2\.8\.3\.tar\.gz"):
            flash_attn_build._sdist(ArtefactSdist(filename="flash-attn-2.8.3.tar.gz", sha256="0" * 64))
        wanted = ArtefactSdist(filename="flash-attn-2.8.3.tar.gz", sha256=sha256)
        assert files.sha256(flash_attn_build._sdist(wanted)) == sha256
    assert files.sha256(flash_attn_build._sdist(wanted)) == sha256, "now the index is gone"


# the build --------------------------------------------------------------------------------------------

SETUP = """
import os, pathlib, shutil, sys
assert sys.argv[1:] == ["bdist_wheel"], sys.argv
for name in ("CUDA_HOME", "FLASH_ATTN_CUDA_ARCHS", "NVCC_THREADS", "MAX_JOBS", "FLASH_ATTENTION_FORCE_BUILD"):
    print(name, os.environ[name])
assert "SECRET" not in os.environ
done = pathlib.Path("one.o")
print("[1/2] nvcc one.cu", flush=True)
if not done.exists():
    done.touch()
    sys.exit("killed in the middle")
print("[2/2] nvcc two.cu", flush=True)
name = "flash_attn-2.8.3+" + os.environ["FLASH_ATTN_LOCAL_VERSION"] + "-cp310-cp310-linux_x86_64.whl"
pathlib.Path("dist").mkdir()
shutil.copy(os.environ["CUDA_HOME"] + "/made.whl", "dist/" + name)
"""


@pytest.fixture
def ready(clone, nvcc, tmp_path, monkeypatch):
    """A variant that is made, a compiler, and an sdist whose setup.py fails once and then goes on."""
    home = nvcc("12.4").parent.parent
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setenv("SECRET", "x")
    toy.wheel(home, "flash-attn", "2.8.3", {"flash_attn/__init__.py": b""}).rename(home / "made.whl")
    sdist = tmp_path / "flash_attn-2.8.3.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name, text in (
            ("setup.py", SETUP),
            (f"{KERNELS}/flash_fwd_hdim64_bf16_sm80.cu", FORWARD.format(dim=64, type="x")),
        ):
            member = tarfile.TarInfo(f"flash_attn-2.8.3/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setattr(flash_attn_build, "_sdist", lambda wanted: sdist)
    (tools := tmp_path / "tools").mkdir()
    (tools / "ninja").touch()
    monkeypatch.setattr(flash_attn_build, "_TOOLS", tools)
    chosen = choose("vllm073", "3.10")
    monkeypatch.setattr(receipt, "read", lambda prefix: {})
    interpreter = chosen.interpreter
    interpreter.parent.mkdir(parents=True)
    interpreter.symlink_to(sys.executable)
    return chosen


def test_a_build_that_failed_goes_on_and_its_wheel_is_found_by_every_variant_of_that_torch(ready, capsys):
    asked = Options(("9.0",), (64,), ("bf16",))
    with pytest.raises(BuildError, match="killed in the middle") as caught:
        flash_attn_build.run(ready, asked)
    assert "what is compiled is kept" in caught.value.remedy
    assert flash_attn_build.built(ready) is None
    assert flash_attn_build.run(ready, asked) == 0
    wheel = flash_attn_build.built(ready)
    assert wheel.name == "flash_attn-2.8.3+cu124torch2.5.partial-cp310-cp310-linux_x86_64.whl"
    assert wheel.parent.name == files.sha256(wheel)
    assert f"--site-wheel flash-attn={wheel}" in capsys.readouterr().err
    sealed = {**toy.SEALED, "base": {"kind": "host", "version": "3.10.1"}, "site_wheels": {}}
    create._report(ready, {**sealed, "missing": {"flash-attn": "no network"}}, "up to date", 0.0)
    assert f"`nox -s env-vllm073 -- --site-wheel flash-attn={wheel}`" in capsys.readouterr().err
    create._report(ready, {**sealed, "missing": {"another": "no network"}}, "up to date", 0.0)
    assert str(wheel) not in capsys.readouterr().err
    assert flash_attn_build.built(choose("vllm070", "3.10")) == wheel
    assert flash_attn_build.built(choose("vllm073", "3.11")) is None
    assert flash_attn_build.built(choose("vllm083", "3.10")) is None


def test_a_wheel_that_is_there_is_not_built_again_and_other_kernels_are_another_wheel(ready):
    asked = Options(("9.0",), (64,), ("bf16",))
    with pytest.raises(BuildError):
        flash_attn_build.run(ready, asked)
    flash_attn_build.run(ready, asked)
    flash_attn_build.run(ready, dataclasses.replace(asked, jobs=3))
    with pytest.raises(BuildError):
        flash_attn_build.run(ready, Options(("9.0",)))


def test_it_needs_an_environment_and_ninja(ready, monkeypatch):
    (flash_attn_build._TOOLS / "ninja").unlink()
    with pytest.raises(CompilerMissing, match="ninja"):
        flash_attn_build.run(ready, Options(("9.0",)))
    monkeypatch.setattr(receipt, "read", READ)
    with pytest.raises(NotSealed):
        flash_attn_build.run(ready, Options(("9.0",)))


def test_memory_bounds_the_jobs(monkeypatch):
    monkeypatch.setattr(flash_attn_build, "_JOB", 1 << 60)
    assert flash_attn_build.jobs() == 1
    monkeypatch.setattr(flash_attn_build, "_JOB", 1)
    assert flash_attn_build.jobs() == len(os.sched_getaffinity(0))
