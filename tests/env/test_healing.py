"""Healing: what of a damage is in uv's cache too, and in the environments beside it."""

from __future__ import annotations

import os
import shutil

import pytest
import toy

from verlock.env import healing
from verlock.env.verify import Damage
from verlock.system import uv
from verlock.variant import receipt
from verlock.variant.chosen import choose

FILES = {"torch/a.so": b"good", "torch/b.py": b"code"}


@pytest.fixture
def chosen(clone):
    """vllm073 with an installed torch of two files, hardlinked from uv's cache."""
    return installed(choose("vllm073"))


@pytest.fixture
def forgotten(monkeypatch, tmp_path):
    """What is dropped from uv's cache, which is at <tmp>/uv."""
    dropped = []
    monkeypatch.setattr(uv, "cache", lambda: tmp_path / "uv")
    monkeypatch.setattr(uv, "forget", lambda packages: dropped.extend(sorted(packages)))
    return dropped


def installed(chosen):
    archive = chosen.prefix.parent.parent / "uv/archive-v0/x"
    if not archive.exists():
        toy.install(archive, "torch", "2.5.1", FILES)
    chosen.site.parent.mkdir(parents=True)
    shutil.copytree(archive, chosen.site, copy_function=os.link)
    sealed = dict.fromkeys(receipt.KEYS) | {"schema": receipt.SCHEMA, "variant": chosen.name, "python": chosen.python}
    packages = {"torch": {"version": "2.5.1"}}
    receipt.write(chosen.prefix, sealed | {"prefix": str(chosen.prefix), "packages": packages, "fingerprint": "x"})
    return chosen


def prepare(chosen, *kinds, package="torch", path="torch/a.so"):
    where = str((chosen.site / path).relative_to(chosen.prefix))
    healing.prepare(chosen, receipt.read(chosen.prefix), [Damage(kind, package, where) for kind in kinds])


def own_copy(path, data):
    """Change a file without changing what it is hardlinked with."""
    path.unlink()
    path.write_bytes(data)


def test_an_edit_through_the_hardlink_drops_that_package_and_says_so(chosen, forgotten, capsys):
    (chosen.site / "torch/a.so").write_bytes(b"evil")
    prepare(chosen, "file changed")
    assert forgotten == ["torch"] and "in uv's cache too, and therefore fetched again: torch" in capsys.readouterr().err


def test_damage_of_another_file_in_the_cache_is_seen_too(chosen, forgotten, tmp_path):
    own_copy(chosen.site / "torch/a.so", b"evil")
    own_copy(tmp_path / "uv/archive-v0/x/torch/b.py", b"evil")
    prepare(chosen, "file changed")
    assert forgotten == ["torch"]


@pytest.mark.parametrize("how", ["unreadable", "missing"])
def test_a_cached_wheel_without_a_good_record_is_dropped(chosen, forgotten, tmp_path, how):
    path = tmp_path / "uv/archive-v0/x/torch-2.5.1.dist-info/RECORD"
    path.unlink()
    if how == "unreadable":
        path.write_bytes(b"\xff\xfe,,")
    prepare(chosen, "file changed")
    assert forgotten == ["torch"]


@pytest.mark.parametrize("kind", ["file changed", "patch undone", "package changed"])
def test_where_the_cache_is_sound_it_keeps_everything(chosen, forgotten, capsys, kind):
    own_copy(chosen.site / "torch/a.so", b"evil")
    prepare(chosen, kind)
    assert forgotten == [] and capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["file missing", "file added", "package missing", "package added", "receipt stale"])
def test_what_is_missing_or_added_says_nothing_about_the_cache(chosen, forgotten, monkeypatch, kind):
    monkeypatch.setattr(healing, "_sound", lambda *arguments: pytest.fail("hashed a wheel"))
    prepare(chosen, kind)
    assert forgotten == []


def test_neither_do_conda_s_packages_those_of_nobody_and_those_at_another_version(chosen, forgotten):
    (chosen.site / "torch/a.so").write_bytes(b"evil")
    for package in ("conda:torch", "", "unknown"):
        prepare(chosen, "file changed", package=package)
    (chosen.site / "torch-2.5.1.dist-info").rename(chosen.site / "torch-2.6.dist-info")
    prepare(chosen, "package changed")
    assert forgotten == []


def test_what_is_not_in_the_cache_need_not_be_dropped(chosen, forgotten, tmp_path):
    shutil.rmtree(tmp_path / "uv")
    prepare(chosen, "file changed")
    assert forgotten == []


def test_the_package_of_a_patched_file_is_found_behind_the_patch_s_name(chosen, forgotten):
    (chosen.site / "torch/a.so").write_bytes(b"evil")
    prepare(chosen, "patch undone", package="torch, 0001-X.patch")
    assert forgotten == ["torch"]


def test_an_environment_beside_it_with_the_same_damage_is_named_and_looked_at_by_its_next_run(
    chosen, forgotten, capsys
):
    other, third = installed(choose("vllm072")), installed(choose("vllm083"))
    own_copy(third.site / "torch/a.so", b"good")
    (chosen.site / "torch/a.so").write_bytes(b"evil")
    prepare(chosen, "file changed")
    said = capsys.readouterr().err
    assert f"the same file is damaged in {other.prefix}: `nox" in said
    assert "`nox -s env-vllm072 -- --python 3.10` heals it" in said and "vllm083" not in said
    assert receipt.read(other.prefix)["fingerprint"] == "" and receipt.read(third.prefix)["fingerprint"] == "x"
