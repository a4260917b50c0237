"""Wheels kept by hash: downloading with pip, unpacking with uv, both real, from a folder instead of an index."""

from __future__ import annotations

import hashlib
import os
import time

import pytest
from toysource import donor_wheel

from verlock.errors import IntegrityError, LockError, NetworkError
from verlock.sources import wheel_store
from verlock.variant.chosen import choose

OTHER = "--hash=sha256:" + "1" * 64


@pytest.fixture
def links(tmp_path, monkeypatch):
    """A folder that stands for the index, holding one wheel."""
    (tmp_path / "links").mkdir()
    wheel = donor_wheel(tmp_path / "links/toy-0.7.3-cp38-abi3-manylinux1_x86_64.whl")
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    (tmp_path / "no-index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "no-index").as_uri())  # uv has no variable for `--no-index`
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(tmp_path / "links"))
    return wheel


@pytest.fixture
def donor(links):
    fields = {"package": "toy", "filename": links.name, "sha256": hashlib.sha256(links.read_bytes()).hexdigest()}
    return choose("v1").recipe.source.precompiled.model_copy(update=fields)


def test_downloaded_once_by_pip(donor, links):
    kept = wheel_store.precompiled(donor, "3.10")
    assert kept.read_bytes() == links.read_bytes()
    links.unlink()
    assert wheel_store.precompiled(donor, "3.10") == kept
    assert not list(wheel_store.root().glob(".scratch-*"))


def test_other_bytes_are_refused(donor, links):
    wrong = donor.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(IntegrityError, match=f"wanted  {'0' * 64}\n  got     {donor.sha256}"):
        wheel_store.precompiled(wrong, "3.10")
    assert not (wheel_store.root() / wrong.sha256).exists()


def test_nowhere_to_be_had(donor, links):
    links.unlink()
    with pytest.raises(NetworkError, match=r"put toy-0.7.3.*into the folder VERLOCK_ARTEFACTS"):
        wheel_store.precompiled(donor, "3.10")


def test_an_offline_run_asks_no_index(donor, links, monkeypatch):
    monkeypatch.setenv("VERLOCK_OFFLINE", "1")
    for bundle, remedy in (("", "VERLOCK_ARTEFACTS"), ("/media/bundle", "bundle -- --verify /media/bundle")):
        monkeypatch.setenv("VERLOCK_BUNDLE", bundle)
        with pytest.raises(NetworkError, match=rf"is not asked for {links.name}: this run is offline") as caught:
            wheel_store.precompiled(donor, "3.10")
        assert remedy in caught.value.remedy
    monkeypatch.delenv("VERLOCK_OFFLINE")
    assert wheel_store.precompiled(donor, "3.10").name == links.name


def test_a_damaged_wheel_of_a_bundle_is_said_to_be_the_bundles(donor, links, tmp_path, monkeypatch):
    place = tmp_path / "bundle/wheels" / links.name
    place.parent.mkdir(parents=True)
    place.write_bytes(links.read_bytes() + b"x")
    monkeypatch.setenv("VERLOCK_BUNDLE", str(tmp_path / "bundle"))
    with pytest.raises(IntegrityError) as caught:
        wheel_store.precompiled(donor, "3.10")
    assert str(place) in caught.value.problem and caught.value.remedy == "copy the bundle here again"


def test_one_package_of_a_lock(links, tmp_path):
    digest = hashlib.sha256(links.read_bytes()).hexdigest()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(
        f"# made by a machine\ntoy-extras==1.0 \\\n    {OTHER}\n    # via toy\n"
        f"toy==0.7.3 \\\n    {OTHER} \\\n    --hash=sha256:{digest}\n    # via -r x.in\nzoo==1 \\\n    {OTHER}\n"
    )
    wheel_store.unpack("toy", requirements, "3.10", tmp_path / "site")
    assert (tmp_path / "site/toy/_C.abi3.so").exists()
    with pytest.raises(LockError, match="does not name extras"):
        wheel_store.unpack("extras", requirements, "3.10", tmp_path / "site")
    requirements.write_text(f"toy==0.7.3 \\\n    {OTHER}\n")
    with pytest.raises(IntegrityError):
        wheel_store.unpack("toy", requirements, "3.10", tmp_path / "other")


def test_what_a_killed_run_left_goes_after_a_day(links):
    wheel_store.root().mkdir(parents=True)
    old, new = (wheel_store.root() / f".scratch-build-{age}" for age in ("old", "new"))
    for folder in (old, new):
        (folder / "tree").mkdir(parents=True)
    yesterday = time.time() - 2 * 86400
    os.utime(old, (yesterday, yesterday))
    with wheel_store.scratch("test") as work:
        assert work.is_dir()
    assert not old.exists()
    assert new.exists()
    assert not work.exists()
