"""A checkout in the place of an installed package, on a git repository and a site-packages made here."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys

import pytest
import toy
from toysource import diff, git

from verlock import paths
from verlock.errors import CheckoutRefused, SourceUnavailable
from verlock.sources import editable, git_commit
from verlock.system import files
from verlock.variant import recipe, recipe_file
from verlock.variant.checkouts import Checkout

OLD, NEW = "SIZE = 1\n", "SIZE = 8\n"
IGNORED = "*.so\n__pycache__/\n"


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """The repository of a package `pkg`, whose commit is to be checked out."""
    folder = tmp_path / "upstream"
    (folder / "pkg").mkdir(parents=True)
    (folder / "examples").mkdir()
    (folder / "pkg/__init__.py").write_text(OLD)
    (folder / "pkg/other.py").write_text("")
    (folder / "examples/run.sh").write_text("echo\n")
    (folder / ".gitignore").write_text(IGNORED)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "pkg")
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", str(folder))
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def commit(upstream):
    hashes = {
        name: git(upstream, "rev-parse", f"HEAD{suffix}") for name, suffix in {"commit": "", "tree": "^{tree}"}.items()
    }
    return Checkout(package="pkg", version="1", url="https://127.0.0.1:9/pkg.git", **hashes)


@pytest.fixture
def site(tmp_path):
    """The released package as it is installed: with a compiled object that the repository has not, and a script."""
    folder = tmp_path / "envs/toy/site"
    (tmp_path / "envs/toy/bin").mkdir(parents=True)
    (tmp_path / "envs/toy/bin/pkg").write_text("script")
    row = toy.record_line("../bin/pkg", b"script")
    inside = {"pkg/__init__.py": NEW.encode(), "pkg/other.py": b"", "pkg/deep/_C.abi3.so": b"\x7fELF"}
    toy.install(folder, "pkg", "1", inside, row, ["pkg/__pycache__/other.cpython-310.pyc", "", ""])
    (folder / "pkg/__pycache__").mkdir()
    (folder / "pkg/__pycache__/other.cpython-310.pyc").touch()
    return folder


@pytest.fixture
def made(tmp_path):
    """A recipe with one patch for `pkg`."""
    folder = tmp_path / "recipes/toy"
    (folder / "patches").mkdir(parents=True)
    (folder / "patches/0001-Toy.patch").write_text("Toy\n\n" + diff("pkg/__init__.py", OLD, NEW))
    text = (paths.RECIPES / "vllm073/recipe.toml").read_text().partition("\n[[patch]]\n")[0]
    text += '\n[[patch]]\nfile = "0001-Toy.patch"\npackage = "pkg"\nwhy = "w"\n'
    shutil.copytree(paths.RECIPES / "common", folder.parent / "common")
    path = folder / recipe_file.NAME
    path.write_text(text)
    return recipe.validate(recipe_file.read(path), path)


@pytest.fixture
def where(site, made, commit):
    """The checkout, after it was put into the package's place."""
    found = editable.place(site.parent, "pkg")
    editable.install(made, site, commit, found)
    return found


def seen(site, code="import pkg; print(pkg.__file__, pkg.SIZE)"):
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import site; site.addsitedir({str(site)!r}); {code}"],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    return done.stdout.split()


def test_python_imports_the_patched_checkout_with_the_wheel_s_objects(site, where):
    assert where.name == "toy-pkg" and seen(site) == [str(where / "pkg/__init__.py"), "8"]
    assert (where / "pkg/deep/_C.abi3.so").read_bytes() == b"\x7fELF" and (where / "examples/run.sh").exists()
    assert not (site / "pkg").exists() and (site.parent / "bin/pkg").exists()


def test_its_metadata_say_that_it_is_editable_and_list_just_what_is_there(site, where):
    (info,) = site.glob("pkg-1.dist-info")
    direct = json.loads((info / "direct_url.json").read_text())
    assert direct == {"dir_info": {"editable": True}, "url": where.as_uri()}
    with (info / "RECORD").open(newline="") as file:
        rows = {row[0]: row[1:] for row in csv.reader(file)}
    assert sorted(rows) == ["../bin/pkg", "__editable__.pkg-1.pth", "pkg-1.dist-info/METADATA", "pkg-1.dist-info/RECORD",
                            "pkg-1.dist-info/direct_url.json"]  # fmt: skip
    for name, (sha256, size) in rows.items():
        if sha256:
            assert toy.record_line(name, (site / name).read_bytes())[1:] == [sha256, size]


def test_what_differs_is_named_with_its_hash(where, commit):
    patched = files.sha256(where / "pkg/__init__.py")
    assert editable.differences(where, commit.commit) == {"pkg/__init__.py": patched}
    (where / "pkg/other.py").unlink()
    (where / "new.py").write_text("x\n")
    (where / "ignored.so").touch()
    git(where, "update-index", "--assume-unchanged", "pkg/__init__.py")  # what git is told hides nothing
    (where / ".git/info").mkdir()
    (where / ".git/info/exclude").write_text("new.py\n")
    found = editable.differences(where, commit.commit)
    assert found == {"new.py": files.sha256(where / "new.py"), "pkg/__init__.py": patched, "pkg/other.py": ""}


def test_a_commit_on_top_differs_too(where, commit):
    (where / "pkg/other.py").write_text("mine\n")
    git(where, "commit", "-qam", "mine")
    assert set(editable.differences(where, commit.commit)) == {"pkg/__init__.py", "pkg/other.py"}


def test_the_lines_for_people():
    entry = {"pkg": {"checkout": "/c", "commit": "a" * 40}}
    assert editable.said(entry, {"pkg": {}}) == ["editable: pkg is /c, as in commit aaaaaaaaaaaa"]
    assert editable.said(entry, {"pkg": {"b": ""}}) == [
        "editable: pkg is /c, 1 file differs from commit aaaaaaaaaaaa: b"
    ]
    (line,) = editable.said(entry, {"pkg": dict.fromkeys("bcdefgh", "")})
    assert line.endswith("7 files differ from commit aaaaaaaaaaaa: b, c, d, e, f and 2 more")


def test_an_install_again_changes_no_file_of_it(tmp_path, site, made, where, commit, capsys):
    (where / "pkg/__init__.py").write_text("SIZE = 'mine'\n")
    (where / "pkg/other.py").unlink()
    (where / "pkg/deep/_C.abi3.so").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in where.rglob("*") if path.is_file() and ".git" not in path.parts}
    shutil.rmtree(site)
    toy.install(site, "pkg", "1", {"pkg/__init__.py": NEW.encode(), "pkg/other.py": b"", "pkg/deep/_C.abi3.so": b"new"})
    editable.install(made, site, commit, where)
    after = {path: path.read_bytes() for path in where.rglob("*") if path.is_file() and ".git" not in path.parts}
    assert after == before and seen(site)[1] == "mine"
    assert "0001-Toy.patch is" in capsys.readouterr().err


def test_lost_objects_come_back(site, made, where, commit):
    git(where, "clean", "-fdxq")
    assert not (where / "pkg/deep").exists()
    shutil.rmtree(site)
    toy.install(site, "pkg", "1", {"pkg/__init__.py": b"", "pkg/deep/_C.abi3.so": b"\x7fELF"})
    editable.install(made, site, commit, where)
    assert (where / "pkg/deep/_C.abi3.so").read_bytes() == b"\x7fELF"


@pytest.mark.parametrize("there", ["thesis", "other repository"])
def test_a_foreign_folder_is_refused_and_left_alone(site, made, commit, there):
    where = editable.place(site.parent, "pkg")
    where.mkdir()
    (where / "thesis.tex").touch()
    if there == "other repository":
        git(where, "init", "-q")
        git(where, "add", "-A")
        git(where, "commit", "-qm", "thesis")
    with pytest.raises(CheckoutRefused, match="is not a git checkout"):
        editable.install(made, site, commit, where)
    with pytest.raises(CheckoutRefused, match="cannot be compared"):
        editable.differences(where, commit.commit)
    assert (where / "thesis.tex").exists() and (site / "pkg/__init__.py").exists()


def test_no_half_made_checkout_after_a_failure(site, made, commit, monkeypatch):
    where = editable.place(site.parent, "pkg")
    monkeypatch.setattr(editable, "_complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        editable.install(made, site, commit, where)
    assert not where.exists() and (site / "pkg/__init__.py").exists()
    monkeypatch.undo()


def test_what_is_ready_needs_no_network_and_what_is_not_says_so_early(site, made, where, commit, monkeypatch):
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", "")
    shutil.rmtree(git_commit.store_path(commit))
    editable.ready(commit, where)
    shutil.rmtree(where)
    with pytest.raises((git_commit.NetworkError, SourceUnavailable)):
        editable.ready(commit, where)
