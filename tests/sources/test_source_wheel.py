"""Building a wheel from a source, on a toy package whose setup.py behaves as vLLM's does: the objects come out of a wheel."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import toysource

from verlock import paths
from verlock.errors import BuildError, IntegrityError, StaleLock
from verlock.sources import git_commit, patches, source_wheel, wheel_store
from verlock.system import uv
from verlock.variant import lockfiles, recipe, recipe_file, record
from verlock.variant.chosen import choose


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VERLOCK_ARTEFACTS", raising=False)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A recipe whose source is a repository made here, and whose released wheel is kept already."""
    repository = toysource.repository(tmp_path / "toy")
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", str(repository))
    donor = toysource.donor_wheel(tmp_path / "toy-0.7.3-cp38-abi3-manylinux1_x86_64.whl")
    folder = tmp_path / "recipes/toy"
    text = (paths.RECIPES / "v1/recipe.toml").read_text().partition("\n[source]\n")[0]
    text += toysource.recipe(folder, repository, donor)
    with wheel_store.scratch("test") as work:
        sha256 = hashlib.sha256(donor.read_bytes()).hexdigest()
        wheel_store.keep(donor.rename(work / donor.name), sha256)
    shutil.copytree(paths.RECIPES / "common", folder.parent / "common")
    path = folder / recipe_file.NAME
    path.write_text(text)
    return recipe.validate(recipe_file.read(path), path)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Build tools without an index: the setuptools of the Python that runs the tests, linked into the tools folder."""
    # found, not imported: importing it after distutils fails, and another test may have imported that
    setuptools = importlib.util.find_spec("setuptools")
    assert setuptools and setuptools.origin

    def install(arguments, **_):
        target = Path(arguments[arguments.index("--target") + 1])
        target.mkdir()
        packages = Path(setuptools.origin).parent.parent
        for pattern in (
            "setuptools",
            "setuptools-*.dist-info",
            "_distutils_hack",
            "pkg_resources",
            "wheel",
            "wheel-*.dist-info",
            "packaging",
        ):
            for found in packages.glob(pattern):
                (target / found.name).symlink_to(found)

    monkeypatch.setattr(uv, "run", install)
    requirements = tmp_path / lockfiles.BUILD_REQUIREMENTS
    requirements.write_text("setuptools==1\n")
    return requirements


def make(toy, tools, locked=None):
    return source_wheel.wheel(toy, Path(sys.executable), tools, locked)


def lock_of(toy, wheel):
    return {"filename": wheel.name, "sha256": wheel.parent.name, "inputs": source_wheel.inputs(toy)}


def test_tree_patch_and_objects(toy, tools):
    made = make(toy, tools)
    assert made.name == "toy-0.7.4.dev65+g22757848-cp38-abi3-manylinux1_x86_64.whl"
    info = "toy-0.7.4.dev65+g22757848.dist-info"
    with zipfile.ZipFile(made) as wheel:
        assert wheel.read("toy/__init__.py").decode().endswith(toysource.FIX[1])
        assert wheel.read("toy/_C.abi3.so") == b"\x7fELF" + b"object" * 999
        assert wheel.read("toy/_version.py") == b"version = '0.7.4.dev65+g22757848'"
        assert b"Version: 0.7.4.dev65+g22757848\n" in wheel.read(f"{info}/METADATA")
        assert b"Requires-Dist: torch==2.5.1" in wheel.read(f"{info}/METADATA")
        assert b"Root-Is-Purelib: false" in wheel.read(f"{info}/WHEEL")
        assert {"toy/kernels/__init__.py", "toy/notes.md", "toy/kernels/.gitkeep"} < set(wheel.namelist())
        assert wheel.read("toy/notes.md") == b"packed too\n" and wheel.read("toy/kernels/.gitkeep") == b""
        assert "docs.md" not in wheel.namelist()
        rows = dict(record.rows(wheel.read(f"{info}/{record.NAME}").decode().splitlines()))
        assert set(rows) == set(wheel.namelist())
        for name in set(rows) - {f"{info}/{record.NAME}"}:
            assert rows[name] == hashlib.sha256(wheel.read(name)).hexdigest()


def test_same_bytes_on_another_day_in_another_place(toy, tools, tmp_path, monkeypatch):
    first = make(toy, tools)
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "an other\u00e9 cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("UNRELATED", "1")
    with wheel_store.scratch("test") as work:
        donor = toy.source.precompiled
        kept = tmp_path / "cache/wheels" / donor.sha256 / donor.filename
        wheel_store.keep(kept.rename(work / donor.filename), donor.sha256)
    later = tmp_path / "later/sitecustomize.py"  # the build's clock, a year on
    later.parent.mkdir()
    later.write_text("import time; _time = time.time; time.time = lambda: _time() + 31_536_000\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{later.parent}" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    before = os.umask(0o077)
    try:
        second = source_wheel.wheel(toy, python, tools, None)
    finally:
        os.umask(before)
    assert second != first
    assert second.read_bytes() == first.read_bytes()


def test_built_once(toy, tools, monkeypatch):
    first = make(toy, tools)
    monkeypatch.setattr(source_wheel, "_build", None)
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", "")
    assert make(toy, tools) == first
    assert make(toy, tools, lock_of(toy, first)) == first
    assert source_wheel.cached(toy, lock_of(toy, first)) == first
    assert not list(wheel_store.root().glob(".scratch-*"))


def test_a_damaged_cache_is_rebuilt(toy, tools):
    first = make(toy, tools)
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    locked = lock_of(toy, first)
    assert source_wheel.cached(toy, locked) is None
    assert make(toy, tools, locked).read_bytes() == whole


def test_other_bytes_than_locked_are_refused(toy, tools):
    with pytest.raises(IntegrityError, match="wanted  0000"):
        make(toy, tools, {"filename": "x.whl", "sha256": "0" * 64, "inputs": source_wheel.inputs(toy)})
    assert [path.name for path in wheel_store.root().iterdir() if not path.name.startswith(".")] == [
        toy.source.precompiled.sha256
    ]


def test_a_patch_edited_after_locking_is_refused(toy, tools):
    locked = lock_of(toy, make(toy, tools))
    path = toy.patch_path(toy.patch[0])
    path.write_text(path.read_text().replace("SIZE = 8", "SIZE = 9"))
    with pytest.raises(StaleLock):
        source_wheel.cached(toy, locked)


def test_a_colleagues_wheel_serves_where_nothing_can_be_built(toy, tools, tmp_path, monkeypatch):
    first = make(toy, tools)
    locked = lock_of(toy, first)
    shared = tmp_path / "shared"
    shared.mkdir()
    first.rename(shared / first.name)
    monkeypatch.setenv("VERLOCK_ARTEFACTS", str(shared))
    assert source_wheel.cached(toy, locked) == first
    first.unlink()
    (shared / first.name).write_bytes(b"something else")
    with pytest.raises(IntegrityError, match="remove it from the folder"):
        source_wheel.cached(toy, locked)


def test_a_failing_setup_shows_its_end(toy, tools, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho nvcc is not here\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(BuildError, match="nvcc is not here"):
        source_wheel.wheel(toy, python, tools, None)


def test_objects_must_come_out_of_the_released_wheel(toy, tools, monkeypatch):
    real = patches.measure

    def own_object(made, root, into=None):
        (root / "toy/_other.so").write_bytes(b"compiled here")
        return real(made, root, into)

    monkeypatch.setattr(patches, "measure", own_object)
    with pytest.raises(BuildError, match=r"toy/_other\.so is not the one in"):
        make(toy, tools)


def test_the_lock_names_it_all(toy, tools, tmp_path, monkeypatch):
    made = make(toy, tools)
    monkeypatch.setattr(paths, "RECIPES", toy.folder.parent)
    monkeypatch.setattr(paths, "LOCKS", tmp_path / "locks")
    chosen = choose(toy.name)
    chosen.locks.mkdir(parents=True)
    shutil.copy(tools, chosen.locks / lockfiles.BUILD_REQUIREMENTS)
    locked = source_wheel.lock(chosen)
    assert locked["wheel"] == {
        **lock_of(toy, made),
        "size": made.stat().st_size,
        "commit": toy.source.commit,
        "tree": toy.source.tree,
        "precompiled": toy.source.precompiled.sha256,
    }
    (touched,) = locked["patches"][0]["touches"]
    with zipfile.ZipFile(made) as wheel:
        assert hashlib.sha256(wheel.read("toy/__init__.py")).hexdigest() == touched["after"]
    (chosen.locks / lockfiles.SOURCES).write_text(json.dumps(locked))
    assert lockfiles.sources(chosen.locks) == locked


def test_the_source_is_asked_for_before_the_download(toy, tools, monkeypatch):
    monkeypatch.setattr(wheel_store, "precompiled", lambda *_: pytest.fail("265 MB for nothing"))
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", "")
    with pytest.raises(git_commit.NetworkError):
        make(toy, tools)
