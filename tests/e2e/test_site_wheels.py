"""Site wheels on a toy variant: the real uv installs a wheel of the user's own in the place of an artefact nobody serves."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import toy

from verlock.system import files

pytestmark = pytest.mark.skipif(toy.compiler() is None, reason="no C compiler to make the toy's shared objects with")

GOOD = "int toy_torch(void); int toy_attention(void) { return toy_torch(); }"
WRONG = "int other_abi(void); int toy_attention(void) { return other_abi(); }"


@pytest.fixture
def fresh(tmp_path):
    """A project with nothing made yet, whose recipe names flash-attn."""
    project = toy.Project(tmp_path)
    project.artefact()
    return project


@pytest.fixture
def site_wheel(tmp_path):
    """Makes a wheel of the user's own, in a folder of its own, with a compiled object of this code; returns its path."""

    def make(place: str, code: str = GOOD) -> Path:
        folder = tmp_path / place
        folder.mkdir()
        built = toy.shared_object(folder, "attention", code)
        inside = {"flash_attn/__init__.py": f"place = {place!r}\n".encode(), f"flash_attn_2_cuda.{place}.so": built}
        return toy.wheel(folder, "flash-attn", "2.8.3", inside)

    return make


def short(path: Path) -> str:
    return f"site wheel: flash-attn 2.8.3, {files.sha256(path)[:8]}, {path.name}"


def test_made_said_everywhere_kept_healed_and_given_up(fresh, site_wheel):
    wheel = site_wheel("own")
    said = fresh.create("--site-wheel", f"flash-attn={wheel}")
    assert "flash-attn site wheel" in said and short(wheel) in said and "INCOMPLETE" not in said
    sealed = fresh.receipt()
    entry = {"file": wheel.name, "version": "2.8.3", "sha256": files.sha256(wheel)}
    assert sealed["site_wheels"] == {"flash-attn": entry} and sealed["missing"] == {}
    assert sealed["packages"]["flash-attn"]["sha256"] == entry["sha256"]
    digest = sealed["digest"]

    assert short(wheel) in fresh.verify("--strict")
    report = json.loads(fresh.run("verify", "toy", "--json").stdout)
    assert report["site_wheels"] == {"flash-attn": entry} and report["damage"] == []
    assert "(host, site wheel flash-attn)" in fresh.run("list").stdout

    inode = fresh.prefix.stat().st_ino
    for again in (fresh.create("--site-wheel", f"flash-attn={wheel}"), fresh.create(), fresh.create("--strict")):
        assert "up to date" in again and short(wheel) in again
    wheel.unlink()
    assert "up to date" in fresh.create() and fresh.prefix.stat().st_ino == inode

    with (fresh.site / "flash_attn/__init__.py").open("a") as file:
        file.write("damage = 1\n")
    said = fresh.create()
    assert "healing file changed" in said and f"{entry['sha256'][:8]}, {wheel.name}" in said
    assert (fresh.site / "flash_attn/__init__.py").read_text() == "place = 'own'\n"
    assert "site wheel" in fresh.verify("--strict")

    said = fresh.create("--site-wheel", "none")
    assert "site wheel" not in said and "INCOMPLETE, flash-attn is missing" in said
    sealed = fresh.receipt()
    assert sealed["site_wheels"] == {} and list(sealed["missing"]) == ["flash-attn"] and sealed["digest"] == digest
    assert not (fresh.site / "flash_attn").exists()
    assert "site wheel" not in fresh.create()


def test_another_file_is_another_environment(fresh, site_wheel):
    one, two = site_wheel("one"), site_wheel("two")
    fresh.create("--site-wheel", f"flash-attn={one}")
    said = fresh.create(VERLOCK_SITE_WHEELS=f"flash_attn={two}")
    assert "is ready" in said and short(two) in said
    assert (fresh.site / "flash_attn/__init__.py").read_text() == "place = 'two'\n"
    assert short(one) in fresh.create("--site-wheel", f"flash-attn={one}", VERLOCK_SITE_WHEELS=f"flash-attn={two}")
    fresh.verify()


def test_a_change_of_the_lock_or_the_base_keeps_it(fresh, site_wheel, edit):
    wheel = site_wheel("own")
    fresh.create("--site-wheel", f"flash-attn={wheel}")
    wheel.unlink()
    edit(fresh.locks / "build-requirements.txt", "", f"wheel==0.45.1 --hash=sha256:{'a' * 64}\n")
    said = fresh.create()
    assert "is ready" in said and "site wheel: flash-attn" in said
    fresh.verify("--strict")


def test_a_killed_rebuild_keeps_it(fresh, site_wheel, edit):
    fresh.create("--site-wheel", f"flash-attn={site_wheel('own')}")
    edit(fresh.locks / "build-requirements.txt", "", f"wheel==0.45.1 --hash=sha256:{'a' * 64}\n")
    fresh.killed("verlock.system.uv", "sync", "before")
    assert "site wheel: flash-attn" in fresh.create()


def test_a_kept_file_that_is_gone_leaves_what_is_there(fresh, site_wheel):
    wheel = site_wheel("own")
    fresh.create("--site-wheel", f"flash-attn={wheel}")
    shutil.rmtree(fresh.folder / "cache/wheels")
    assert "up to date" in fresh.create()
    (fresh.site / "vllm/rank.py").unlink()
    said = fresh.create(code=61)
    assert "no longer has its site wheel" in said and "--site-wheel flash-attn=FILE" in said
    assert fresh.imports() == "2.5.1 0.7.3 0.3.0.post1"
    assert short(wheel) in fresh.create("--site-wheel", f"flash-attn={wheel}")
    fresh.verify("--strict")


def test_the_wrong_abi_is_refused_and_what_is_there_comes_back(fresh, site_wheel):
    good, wrong = site_wheel("good"), site_wheel("wrong", WRONG)
    fresh.create("--site-wheel", f"flash-attn={good}")
    said = fresh.create("--site-wheel", f"flash-attn={wrong}", code=27)
    assert f"the site wheel of flash-attn does not load here: {wrong.name}" in said
    assert "flash_attn_2_cuda.wrong.so" in said and "other_abi" in said
    assert short(good) in fresh.verify("--strict")
    assert "up to date" in fresh.create()


def test_the_wrong_abi_seals_nothing(fresh, site_wheel):
    fresh.create("--site-wheel", f"flash-attn={site_wheel('wrong', WRONG)}", code=27)
    fresh.verify(code=40)


def test_what_does_not_fit_touches_nothing(fresh, site_wheel):
    wheel = site_wheel("own")
    other = wheel.with_name("flash_attn-2.8.3-cp27-cp27mu-linux_x86_64.whl")
    shutil.copyfile(wheel, other)
    assert "got     a wheel for cp27-cp27mu" in fresh.create("--site-wheel", f"flash-attn={other}", code=61)
    assert "it names: flash-attn" in fresh.create("--site-wheel", f"torch={wheel}", code=11)
    assert not fresh.prefix.exists() and not (fresh.folder / "cache/wheels").exists()


def test_a_release_wheel_s_own_form_is_taken(fresh, site_wheel):
    """The project's release wheels have a local version in their name that their metadata lacks, and %2B in their address."""
    wheel = site_wheel("own")
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.startswith("flash_attn-2.8.3.dist-info") for name in archive.namelist())
    renamed = wheel.rename(wheel.with_name("flash_attn-2.8.3%2Bcu12torch2.5-py3-none-any.whl"))
    fresh.create("--site-wheel", f"flash-attn={renamed}")
    assert fresh.receipt()["site_wheels"]["flash-attn"]["file"] == "flash_attn-2.8.3+cu12torch2.5-py3-none-any.whl"
    fresh.verify("--strict")
