"""Patches on small trees made here: the five outcomes, hardlinks, kills and byte code."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from toysource import diff

from verlock import paths
from verlock.errors import IntegrityError, PatchPartlyApplied, PatchRejected, StaleLock
from verlock.sources import patches
from verlock.sources.patches import Outcome
from verlock.system import files
from verlock.variant import lockfiles, receipt, recipe, recipe_file, record
from verlock.variant.chosen import choose

ONE = "".join(f"line {number}\n" for number in range(1, 31))
TWO = "import os\n\n\ndef rank():\n    return int(os.environ['RANK'])\n\n\ndef size():\n    return 1\n"
RANK = ("    return int(os.environ['RANK'])", "    return int(os.environ['LOCAL_RANK'])")


@pytest.fixture
def site(tmp_path):
    """site-packages of an environment whose Python is ours, with one package hardlinked out of a cache, as uv leaves it."""
    cache = tmp_path / "cache/pkg"
    cache.mkdir(parents=True)
    (cache / "one.txt").write_text(ONE)
    (cache / "two.py").write_text(TWO)
    (cache / "two.py").chmod(0o640)
    prefix = tmp_path / "env"
    folder = prefix / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (folder / "pkg").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/python").symlink_to(sys.executable)
    for file in cache.iterdir():
        os.link(file, folder / "pkg" / file.name)
    return folder


def variant(tmp_path: Path, *texts: str) -> recipe.Recipe:
    """A recipe with these patches."""
    folder = tmp_path / "recipes/toy"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "patches").mkdir(parents=True)
    body, _, _ = (paths.RECIPES / "vllm073/recipe.toml").read_text().partition("\n[[patch]]")
    for number, text in enumerate(texts, 1):
        (folder / f"patches/{number:04}-Toy.patch").write_text(f"Toy\n\nWhy.\n\n{text}")
        upstream = "433c4a49230a470f13657f06e7612cde86e4fb40"
        body += f'\n[[patch]]\nfile = "{number:04}-Toy.patch"\npackage = "pkg"\nwhy = "w"\nupstream = "{upstream}"\n'
    shutil.copytree(paths.RECIPES / "common", folder.parent / "common", dirs_exist_ok=True)
    (folder / recipe_file.NAME).write_text(body)
    path = folder / recipe_file.NAME
    return recipe.validate(recipe_file.read(path), path)


@pytest.fixture
def toy(tmp_path, site):
    """One patch of two files, three hunks; and its lock."""
    new = ONE.replace("line 3\n", "line three\n").replace("line 25\n", "")
    made = variant(tmp_path, diff("pkg/one.txt", ONE, new) + diff("pkg/two.py", TWO, TWO.replace(*RANK)))
    return made, {"patches": patches.measure(made, site), "wheel": None}


def outcome(made, site, locked):
    (state,) = patches.states(made, site, locked)
    return state.outcome


def test_applied_to_copies_and_recorded(toy, site, tmp_path):
    made, locked = toy
    cache = tmp_path / "cache/pkg/two.py"
    sibling = tmp_path / "sibling.py"
    os.link(cache, sibling)
    assert outcome(made, site, locked) is Outcome.APPLIES
    (entry,) = patches.apply(made, site, locked)
    assert "LOCAL_RANK" in (site / "pkg/two.py").read_text()
    assert (site / "pkg/one.txt").read_text() == ONE.replace("line 3\n", "line three\n").replace("line 25\n", "")
    assert cache.read_text() == sibling.read_text() == TWO
    assert (site / "pkg/two.py").stat().st_mode & 0o777 == 0o640
    assert entry["package"] == "pkg"
    assert entry["upstream"].startswith("433c4a49")
    assert entry["sha256"] == hashlib.sha256(made.patch_path(made.patch[0]).read_bytes()).hexdigest()
    for touched in entry["touches"]:
        assert touched["before"] == files.sha256_if_there(tmp_path / "cache" / touched["path"])
        assert touched["after"] == files.sha256_if_there(site / touched["path"]) != touched["before"]
    assert outcome(made, site, locked) is Outcome.APPLIED


def test_second_run_writes_nothing(toy, site):
    made, locked = toy
    first = patches.apply(made, site, locked)
    before = {path: path.stat() for path in (site / "pkg").iterdir()}
    assert patches.apply(made, site, locked) == first
    assert {path: path.stat() for path in (site / "pkg").iterdir()} == before


def test_undone_by_a_later_install(toy, site, tmp_path):
    made, locked = toy
    patches.apply(made, site, locked)
    (site / "pkg/one.txt").unlink()
    os.link(tmp_path / "cache/pkg/one.txt", site / "pkg/one.txt")
    (state,) = patches.states(made, site, locked)
    assert state.outcome is Outcome.PARTLY
    assert "there: pkg/two.py; not there: pkg/one.txt" in state.detail
    (site / "pkg/two.py").write_text(TWO)
    assert outcome(made, site, locked) is Outcome.APPLIES


@pytest.mark.parametrize("kill_at", [1, 2])
def test_killed_between_two_files(toy, site, monkeypatch, kill_at):
    made, locked = toy
    real, calls = Path.replace, []

    def replace(self, target):
        if str(self).endswith(patches._DRAFT):
            calls.append(self)
            if len(calls) == kill_at:
                raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        patches.apply(made, site, locked)
    drafts = list((site / "pkg").glob(f"*{patches._DRAFT}"))
    assert len(drafts) == 1  # what a kill leaves
    assert outcome(made, site, locked) is (Outcome.APPLIES if kill_at == 1 else Outcome.PARTLY)
    patches.apply(made, site, locked)
    assert outcome(made, site, locked) is Outcome.APPLIED
    assert not list((site / "pkg").glob(f"*{patches._DRAFT}"))


def test_already_fixed_upstream_is_told_by_the_record(toy, site):
    made, locked = toy
    fixed = TWO.replace(*RANK).replace("return 1", "return 2")  # another release, with the fix
    shipped = ONE.replace("line 3\n", "line three\n").replace("line 25\n", "") + "line 31\n"
    for name, text in (("two.py", fixed), ("one.txt", shipped)):
        (site / "pkg" / name).unlink()
        (site / "pkg" / name).write_text(text)
    (state,) = patches.states(made, site, locked)
    assert state.outcome is Outcome.APPLIED  # no RECORD says that it came so
    assert not state.exact
    info = site / "pkg-2.0.dist-info"
    info.mkdir()
    came = [(f"pkg/{name}", (site / "pkg" / name).read_bytes()) for name in ("two.py", "one.txt")]
    (info / record.NAME).write_text(record.text(came, f"{info.name}/{record.NAME}"))
    assert outcome(made, site, locked) is Outcome.FIXED_UPSTREAM
    with pytest.raises(PatchRejected, match="already fixed upstream by 433c4a49230a"):
        patches.apply(made, site, locked)
    with pytest.raises(PatchRejected, match="already fixed upstream"):
        patches.measure(made, site)


def test_partly_applied_by_hand(toy, site):
    made, locked = toy
    (site / "pkg/one.txt").unlink()
    (site / "pkg/one.txt").write_text(ONE.replace("line 25\n", "") + "mine\n")
    (state,) = patches.states(made, site, locked)
    assert state.outcome is Outcome.PARTLY
    assert re.search(r"there: pkg/one.txt:2\d; not there: pkg/one.txt:1, pkg/two.py:2", state.detail), state.detail
    with pytest.raises(PatchPartlyApplied, match="not there"):
        patches.apply(made, site, locked)


def test_does_not_apply_shows_the_hunk_and_what_it_met(toy, site):
    made, locked = toy
    (site / "pkg/two.py").unlink()
    (site / "pkg/two.py").write_text(TWO.replace("def rank():", "def rank( ):"))  # context, one blank off: no fuzz
    with pytest.raises(PatchRejected) as caught:
        patches.apply(made, site, locked)
    text = str(caught.value)
    assert "does not apply: hunk pkg/two.py:2" in text
    assert "+    return int(os.environ['LOCAL_RANK'])" in text
    assert "    def rank( ):" in text
    assert (site / "pkg/one.txt").read_text() == ONE  # nothing was touched


def test_a_missing_file_is_named(toy, site):
    made, locked = toy
    (site / "pkg/two.py").unlink()
    with pytest.raises(PatchRejected, match=r"pkg/two\.py is not there"):
        patches.apply(made, site, locked)


def test_fits_but_is_not_the_locked_file(toy, site):
    made, locked = toy
    (site / "pkg/one.txt").unlink()
    (site / "pkg/one.txt").write_text(ONE.replace("line 15\n", "line 15\nadded\n"))
    (state,) = patches.states(made, site, locked)
    assert (state.outcome, state.exact) == (Outcome.APPLIES, False)
    with pytest.raises(PatchRejected, match="not what the lock names"):
        patches.apply(made, site, locked)


def test_two_patches_of_one_file(tmp_path, site):
    middle = ONE.replace("line 10\n", "ten\n")
    last = middle.replace("line 11\n", "eleven\n")
    made = variant(tmp_path, diff("pkg/one.txt", ONE, middle), diff("pkg/one.txt", middle, last))
    locked = {"patches": patches.measure(made, site)}
    (site / "pkg/one.txt").unlink()
    (site / "pkg/one.txt").write_text(middle)
    assert [state.outcome for state in patches.states(made, site, locked)] == [Outcome.APPLIED, Outcome.APPLIES]
    patches.apply(made, site, locked)
    assert (site / "pkg/one.txt").read_text() == last
    assert [state.outcome for state in patches.states(made, site, locked)] == [Outcome.APPLIED] * 2


def test_a_patch_edited_after_locking_is_refused(toy, site):
    made, locked = toy
    path = made.patch_path(made.patch[0])
    path.write_text(path.read_text().replace("LOCAL_RANK", "RANK_LOCAL"))
    with pytest.raises(StaleLock, match="0001-Toy"):
        patches.apply(made, site, locked)
    assert (site / "pkg/two.py").read_text() == TWO


def test_another_result_than_locked_is_refused(toy, site):
    made, locked = toy
    locked["patches"][0]["touches"][1]["after"] = "0" * 64
    with pytest.raises(IntegrityError, match="wanted  0000"):
        patches.apply(made, site, locked)
    assert (site / "pkg/one.txt").read_text() == ONE


def test_neither_an_outer_repository_nor_the_users_git_counts(tmp_path, site, monkeypatch):
    full = "diff --git a/pkg/two.py b/pkg/two.py\n" + diff("pkg/two.py", TWO, TWO.replace(*RANK))
    made = variant(tmp_path, full)
    locked = {"patches": patches.measure(made, site)}
    # the trap: inside a repository git leaves out, and says nothing of, paths that are not below the current folder
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    done = subprocess.run(["git", "apply", "-"], input=full.encode(), cwd=site, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (site / "pkg/two.py").read_text() == TWO
    (tmp_path / ".gitconfig").write_text("[core]\n\tautocrlf = true\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    patches.apply(made, site, locked)
    assert outcome(made, site, locked) is Outcome.APPLIED


@pytest.mark.parametrize("python_runs", [True, False])
def test_byte_code_is_renewed(toy, site, python_runs):
    made, locked = toy
    if not python_runs:
        (site.parents[2] / "bin/python").unlink()
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # believed whatever the source says
    cached = Path(py_compile.compile(str(site / "pkg/two.py"), invalidation_mode=mode, doraise=True))
    ask = [
        sys.executable,
        "-I",
        "-B",
        "-c",
        f"import sys; sys.path.insert(0, {str(site)!r}); from pkg.two import rank; print(rank())",
    ]
    (site / "pkg/__init__.py").touch()
    environment = {"RANK": "3", "LOCAL_RANK": "0"}
    assert subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout == "3\n"
    patches.apply(made, site, locked)
    assert subprocess.run(ask, env=environment, capture_output=True, text=True, check=True).stdout == "0\n"
    assert cached.exists() is python_runs  # compiled again, since it was there


def test_show(toy, site, tmp_path, monkeypatch, capsys):
    made, locked = toy
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "envs"))
    monkeypatch.setattr(paths, "RECIPES", made.folder.parent)
    monkeypatch.setattr(paths, "LOCKS", tmp_path / "locks")
    chosen = choose(made.name)
    chosen.locks.mkdir(parents=True)
    (chosen.locks / lockfiles.SOURCES).write_text(json.dumps(locked))
    assert patches.show(chosen) == 0
    out = capsys.readouterr().out
    assert f"in {chosen.prefix}, which is not built" in out
    assert "pkg/one.txt, pkg/two.py" in out
    assert "upstream  433c4a49230a470f13657f06e7612cde86e4fb40" in out
    chosen.site.parent.mkdir(parents=True)
    shutil.copytree(site, chosen.site)
    monkeypatch.setattr(receipt, "read", lambda _: {"editable": {}})
    for state in ("[not applied]", "[applied]"):
        patches.show(chosen)
        assert f"0001-Toy.patch  {state}" in capsys.readouterr().out
        patches.apply(made, chosen.site, locked)
    # an editable install
    package = made.patch[0].package
    monkeypatch.setattr(receipt, "read", lambda _: {"editable": {package: {"checkout": str(site)}}})
    patches.show(chosen)
    assert "[not applied]" in (out := capsys.readouterr().out)
    assert f", {site}" in out


def test_show_gives_the_link_of_a_patch_without_an_upstream_commit(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path))
    assert patches.show(choose("vllm073")) == 0
    assert "upstream  https://github.com/vllm-project/vllm/issues/21252" in capsys.readouterr().out
