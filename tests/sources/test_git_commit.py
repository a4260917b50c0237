"""Sources, on a git repository made here: where a commit may come from, and what makes it refused."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from toysource import git

from verlock import paths
from verlock.errors import NetworkError, SourceMismatch, SourceStoreDamaged, SourceUnavailable, ToolMissing
from verlock.sources import git_commit
from verlock.system import loopback
from verlock.variant.chosen import choose

UNREACHABLE = "https://127.0.0.1:9/vllm.git"
FIELDS = choose("v1").recipe.source


@pytest.fixture
def upstream(tmp_path):
    """A clone with three commits, the second of which is meant; its branch has moved on."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    git(folder, "init", "-q")
    for number in (1, 2, 3):
        (folder / "pkg").mkdir(exist_ok=True)
        (folder / "pkg/__init__.py").write_bytes(b"NUMBER = %d\r\nx = 'y'\n" % number)
        (folder / "run.sh").write_text(f"echo {number}\n" * 500)
        (folder / "run.sh").chmod(0o755)
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", f"number {number}")
    return folder


@pytest.fixture
def source(upstream, tmp_path, monkeypatch):
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VERLOCK_SOURCE_MIRROR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    commit = git(upstream, "rev-parse", "HEAD~1")
    tree = git(upstream, "rev-parse", "HEAD~1^{tree}")
    return FIELDS.model_copy(update={"package": "pkg", "commit": commit, "tree": tree, "url": UNREACHABLE})


@pytest.fixture
def mirrored(source, upstream, monkeypatch):
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", str(upstream))
    return source


def number(folder: Path) -> bytes:
    return (folder / "pkg/__init__.py").read_bytes()


def test_the_very_commit_byte_for_byte(mirrored, tmp_path):
    git_commit.checkout(mirrored, tmp_path / "tree")
    assert number(tmp_path / "tree") == b"NUMBER = 2\r\nx = 'y'\n"
    assert os.access(tmp_path / "tree/run.sh", os.X_OK)
    assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == ["pkg", "run.sh"]


def test_shallow_and_alone(mirrored):
    store = git_commit.store(mirrored)
    assert git(store, "rev-list", "--all") == mirrored.commit
    assert sorted(path.name for path in store.parent.iterdir()) == [store.name]  # no scratch left


def test_offline_once_fetched(mirrored, tmp_path, monkeypatch):
    git_commit.store(mirrored)
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", "")
    git_commit.checkout(mirrored, tmp_path / "tree")
    assert number(tmp_path / "tree").startswith(b"NUMBER = 2")


@pytest.mark.parametrize("form", ["file://{}", "{}/.git", "https://127.0.0.1:9/dead.git, {}"])
def test_mirror_forms(source, upstream, monkeypatch, form):
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", form.format(upstream))
    assert git_commit.store(source).exists()


def test_a_relative_mirror_is_the_users_folder(source, upstream, monkeypatch):
    monkeypatch.chdir(upstream.parent)
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", upstream.name)
    assert git_commit.store(source).exists()


def test_a_bundle_serves_too(source, upstream, tmp_path, monkeypatch):
    git(upstream, "bundle", "create", "-q", str(tmp_path / "all.bundle"), "--all")
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", str(tmp_path / "all.bundle"))
    git_commit.checkout(source, tmp_path / "tree")
    assert number(tmp_path / "tree").startswith(b"NUMBER = 2")
    git_commit.store(source)  # and its history is no damage


def test_gits_own_insteadof(source, upstream, tmp_path, monkeypatch):
    (tmp_path / ".gitconfig").write_text(f'[url "{upstream}"]\n\tinsteadOf = {UNREACHABLE}\n')
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    assert git_commit.store(source).exists()


def test_the_users_git_changes_no_byte(mirrored, tmp_path, monkeypatch):
    (tmp_path / ".gitconfig").write_text("[core]\n\tautocrlf = true\n\teol = crlf\n\tfileMode = false\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere/index"))
    before = os.umask(0o077)
    try:
        git_commit.checkout(mirrored, tmp_path / "tree")
    finally:
        os.umask(before)
    assert (tmp_path / "tree/run.sh").read_bytes() == b"echo 2\n" * 500
    assert not (tmp_path / "nowhere").exists()


def test_nobody_answers(source):
    with pytest.raises(NetworkError, match=r"(?s)127\.0\.0\.1:9 cannot be reached.*VERLOCK_SOURCE_MIRROR") as caught:
        git_commit.store(source)
    assert caught.value.exit_code == 24
    assert not list((paths.cache_dir() / "sources").iterdir())


def test_an_offline_run_asks_only_places_of_this_machine(source, upstream, tmp_path, monkeypatch):
    asked = []

    class Handler(loopback.Handler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    monkeypatch.setenv("VERLOCK_OFFLINE", "1")
    with loopback.serve(Handler) as address:
        remote = source.model_copy(update={"url": f"{address}/pkg.git"})
        monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", f"{address}/mirror.git, localhost:mirror.git")
        with pytest.raises(NetworkError, match=r"127\.0\.0\.1.*this run is offline"):
            git_commit.store(remote)
        for mirror in (str(upstream), upstream.as_uri()):
            monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / f"cache-{mirror[:4].strip('/')}"))
            monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", f"{address}/mirror.git,{mirror}")
            assert git_commit.store(remote).is_dir()
        assert not asked
        monkeypatch.delenv("VERLOCK_OFFLINE")
        monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "other"))
        git_commit.store(remote)
        assert asked


def test_the_commit_is_nowhere(mirrored):
    missing = mirrored.model_copy(update={"commit": "1" * 40})
    with pytest.raises(SourceUnavailable, match=f"commit {'1' * 40} of pkg is in none of the places asked") as caught:
        git_commit.store(missing)
    assert "not our ref" in str(caught.value)
    assert "insteadOf" in caught.value.remedy


def test_a_mirror_that_is_no_repository_is_said_so(source, tmp_path, monkeypatch):
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", str(tmp_path))
    with pytest.raises(SourceUnavailable, match="does not appear to be a git repository"):
        git_commit.store(source)


def test_a_mirror_of_another_user_is_said_with_what_to_do(mirrored, upstream, monkeypatch):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(SourceUnavailable, match="belongs to another user, and git does not read it") as caught:
        git_commit.store(mirrored)
    assert f"git config --global --add safe.directory '{upstream}" in str(caught.value)


def test_name_and_password_of_a_mirror_are_not_shown(source, monkeypatch):
    monkeypatch.setenv("VERLOCK_SOURCE_MIRROR", "http://user:s3cret@127.0.0.1:9/x.git")
    with pytest.raises(NetworkError, match=r"http://\*\*\*@127\.0\.0\.1:9/x\.git: ") as caught:
        git_commit.store(source)
    assert "s3cret" not in str(caught.value)


def test_the_tree_decides(mirrored):
    other = mirrored.model_copy(update={"tree": "2" * 40})
    with pytest.raises(SourceMismatch, match=f"wanted  {'2' * 40}\n  got     {mirrored.tree}"):
        git_commit.store(other)
    assert not git_commit.store_path(other).exists()  # what is refused is not kept


def largest(folder: Path) -> Path:
    found = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    found.chmod(0o644)
    return found


def truncate(store: Path) -> None:
    path = largest(store / "objects")
    path.write_bytes(path.read_bytes()[:-30])


def flip(store: Path) -> None:
    path = largest(store / "objects")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forged(store: Path) -> None:
    """A file with other content under the old name: whole and readable, but not what its hash says."""
    name = git(store, "rev-parse", f"{git_commit._REF}:run.sh")
    for pack in list((store / "objects/pack").glob("*.pack")):
        data = pack.read_bytes()
        for file in (store / "objects/pack").iterdir():
            file.unlink()
        subprocess.run(["git", "unpack-objects", "-q"], cwd=store, input=data, check=True)
    loose = store / "objects" / name[:2] / name[2:]
    loose.chmod(0o644)
    loose.write_bytes(zlib.compress(b"blob 5\0evil\n"))


def empty(store: Path) -> None:
    for path in store.rglob("*"):
        if path.is_file():
            path.unlink()


def foreign_ref(store: Path) -> None:
    git(store, "update-ref", "refs/heads/main", git(store, "rev-parse", git_commit._REF))


def replaced(store: Path) -> None:
    """`git replace`: another commit shows in the place of this one."""
    tree = git(store, "mktree")
    other = git(store, "commit-tree", "-m", "evil", tree)
    git(store, "replace", git(store, "rev-parse", git_commit._REF), other)


def alternates(store: Path) -> None:
    (store / "objects/info").mkdir(exist_ok=True)
    (store / "objects/info/alternates").write_text("/elsewhere/objects\n")


@pytest.mark.parametrize("damage", [truncate, flip, forged, empty, foreign_ref, replaced, alternates])
def test_a_damaged_store_is_refused_with_what_to_do(mirrored, tmp_path, damage):
    store = git_commit.store(mirrored)
    damage(store)
    with pytest.raises(SourceStoreDamaged, match=r"remove .* and run again"):
        git_commit.checkout(mirrored, tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_killed_while_fetching(mirrored, tmp_path):
    """The store is there in full or not at all."""
    code = (
        "import os, sys; from verlock.sources import git_commit; from verlock.variant.chosen import choose\n"
        "git_commit._verify = lambda *_: os._exit(9)\n"
        "source = choose('v1').recipe.source.model_copy(update=eval(sys.argv[1]))\n"
        "git_commit.store(source)\n"
    )
    fields = {name: getattr(mirrored, name) for name in ("package", "commit", "tree", "url")}
    done = subprocess.run([sys.executable, "-c", code, repr(fields)], cwd=paths.ROOT, check=False)
    assert done.returncode == 9
    assert not git_commit.store_path(mirrored).exists()
    git_commit.checkout(mirrored, tmp_path / "tree")
    assert number(tmp_path / "tree").startswith(b"NUMBER = 2")


def test_another_run_was_quicker(mirrored, monkeypatch):
    real = git_commit._fetch_from

    def slow(place, commit, draft):
        monkeypatch.setattr(git_commit, "_fetch_from", real)
        git_commit.store(mirrored)  # the other run, from its start to its end
        return real(place, commit, draft)

    monkeypatch.setattr(git_commit, "_fetch_from", slow)
    assert git_commit.store(mirrored).exists()


def test_a_clone_to_work_in(mirrored, tmp_path, upstream):
    git_commit.clone(mirrored, tmp_path / "work")
    assert git(tmp_path / "work", "rev-parse", "HEAD") == mirrored.commit
    assert git(tmp_path / "work", "status", "--porcelain") == ""
    assert git(tmp_path / "work", "remote", "get-url", "origin") == UNREACHABLE
    assert git_commit.descends(tmp_path / "work", mirrored.commit)
    (tmp_path / "work/run.sh").write_text("mine\n")
    git(tmp_path / "work", "commit", "-qam", "mine")
    assert git_commit.descends(tmp_path / "work", mirrored.commit)
    git(upstream, "checkout", "-q", "HEAD~2")
    assert not git_commit.descends(upstream, mirrored.commit)  # the commit before
    assert not git_commit.descends(tmp_path, mirrored.commit)


def test_no_git(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "git", None)
    with pytest.raises(ToolMissing, match="install git"):
        git_commit.store(source)
