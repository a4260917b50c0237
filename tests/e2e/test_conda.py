"""The conda layer for real: a channel made here, solved, locked by conda-lock, installed, healed; then uv on top of it."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import date
from functools import partial
from pathlib import Path

import channel
import fakeindex
import pytest

from verlock import paths
from verlock.conda import client
from verlock.conda.client import Offer
from verlock.errors import IntegrityError, NetworkError, ResolutionError
from verlock.locking import resolvers
from verlock.system import host_python, uv
from verlock.variant import lockfiles

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
VIRTUAL = {"__archspec": "1 x86_64", "__glibc": "2.28", "__linux": "4.18", "__unix": "0"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if host_python.find(MINOR) is None:
        pytest.skip(f"no CPython {MINOR} outside a virtual environment")
    return channel.build(tmp_path_factory.mktemp("channel"), MINOR)


@pytest.fixture(scope="module")
def locked(made, tmp_path_factory):
    """A conda-lock.yml that conda-lock wrote from the shared environment.yml files."""
    work = tmp_path_factory.mktemp("work")
    shutil.copytree(paths.ENVIRONMENTS / "common", work / "common")
    (work / "python.yml").write_text(f"channels: [conda-forge]\ndependencies:\n  - python {MINOR}.*\n")
    before = dict(os.environ)
    os.environ["VERLOCK_CONDA_REPODATA"] = str(made)
    try:
        resolvers.conda_lock(work, ["common/environment.yml", "python.yml"], "conda-lock.yml", VIRTUAL)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return work / "conda-lock.yml"


@pytest.fixture
def served(made):
    """The channel on http, counting what is asked."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *arguments):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(made)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_the_lock_has_canonical_urls_and_true_hashes(made, locked):
    import hashlib

    listed = lockfiles.conda_packages(locked)
    assert {item["name"] for item in listed} == {"python", "pip", "setuptools", "wheel", "git"}
    for item in listed:
        base, tail = item["url"].rsplit("/", 2)[0], "/".join(item["url"].rsplit("/", 2)[1:])
        assert base == channel.URL
        assert item["sha256"] == hashlib.sha256((made / tail).read_bytes()).hexdigest()
    assert str(made) not in locked.read_text()


def test_solve_lock_install_sync_noop(made, locked, tmp_path):
    prefix, cache = tmp_path / "prefix", tmp_path / "cache"
    client.install(locked, prefix, cache, mirrors=[str(made)])
    python = prefix / "bin" / "python"
    asked = subprocess.run(
        [python, "-Ic", "import sys, ssl; print(sys.prefix, sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.split()[0] == str(prefix)
    assert subprocess.run([prefix / "bin" / "pip", "--version"], capture_output=True, check=True).stdout.startswith(
        b"pip 25.0"
    )
    with fakeindex.serve() as index:
        sha256 = index.release("alpha", "1.0", "2025-01-01")
        requirements = tmp_path / "requirements.txt"
        lines = [f"alpha==1.0 --hash=sha256:{sha256}"]
        # the layer's own pip, setuptools and wheel: hashes are asked for, but no file of these need be fetched
        lines += [f"{name}=={version} --hash=sha256:{'0' * 64}" for name, version in channel.WHEELS.items()]
        requirements.write_text("\n".join(lines) + "\n")
        command = [
            uv.uv(),
            "pip",
            "sync",
            "--no-config",
            "--python",
            str(python),
            "--require-hashes",
            "--default-index",
            index.url,
            str(requirements),
        ]
        first = subprocess.run(command, capture_output=True, text=True, check=False)
        assert first.returncode == 0, first.stderr
        assert "+ alpha==1.0" in first.stderr
        assert "setuptools" not in first.stderr
        before = sorted((path, path.lstat().st_mtime_ns) for path in prefix.rglob("*"))
        second = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "Would" not in second.stderr
        assert "Installed" not in second.stderr
    client.install(locked, prefix, cache, mirrors=[str(made)])
    after = sorted((path, path.lstat().st_mtime_ns) for path in prefix.rglob("*"))
    assert [path for path, _ in after] == [path for path, _ in before]
    assert subprocess.run([python, "-Ic", "import alpha, setuptools"], check=False).returncode == 0


def test_a_damaged_prefix_is_healed(made, locked, tmp_path):
    prefix, cache = tmp_path / "prefix", tmp_path / "cache"
    client.install(locked, prefix, cache, mirrors=[str(made)])
    library = prefix / "lib" / f"python{MINOR}"
    original = (library / "ast.py").read_bytes()
    (library / "json" / "__init__.py").unlink()
    (library / "ast.py").unlink()  # a hardlink: writing into it would spoil the cache
    (library / "ast.py").write_bytes(original + b"#")
    next((prefix / "conda-meta").glob("git-*.json")).write_text("{ half")
    (prefix / "bin" / "python3").unlink()
    client.install(locked, prefix, cache, mirrors=[str(made)])
    assert (library / "ast.py").read_bytes() == original
    assert (library / "json" / "__init__.py").exists()
    assert (prefix / "bin" / "python3").exists()
    assert json.loads(next((prefix / "conda-meta").glob("git-*.json")).read_text())["name"] == "git"


def test_a_spoiled_cache_does_not_spread(made, locked, tmp_path):
    cache = tmp_path / "cache"
    client.install(locked, tmp_path / "one", cache, mirrors=[str(made)])
    file = next(cache.glob("python-*")) / "lib" / f"python{MINOR}" / "ast.py"
    original = file.read_bytes()
    file.write_bytes(original + b"#")
    client.install(locked, tmp_path / "two", cache, mirrors=[str(made)])
    assert (tmp_path / "two" / "lib" / f"python{MINOR}" / "ast.py").read_bytes() == original


def spoiled(made, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(made, bad)
    file = next((bad / "noarch").glob("pip-*.conda"))
    file.write_bytes(file.read_bytes()[:-64] + b"\0" * 64)
    return bad


def test_other_bytes_are_refused_with_both_hashes(made, locked, tmp_path):
    import hashlib

    bad = spoiled(made, tmp_path)
    wanted = next(item["sha256"] for item in lockfiles.conda_packages(locked) if item["name"] == "pip")
    got = hashlib.sha256(next((bad / "noarch").glob("pip-*.conda")).read_bytes()).hexdigest()
    with pytest.raises(IntegrityError) as caught:
        client.install(locked, tmp_path / "prefix", tmp_path / "cache", mirrors=[str(bad)])
    assert wanted in caught.value.problem
    assert got in caught.value.problem


def test_a_file_url_in_a_lock_is_hashed_too(made, locked, tmp_path):
    bad = spoiled(made, tmp_path)
    lock = tmp_path / "conda-lock.yml"
    lock.write_text(locked.read_text().replace(channel.URL, bad.as_uri()))
    with pytest.raises(IntegrityError, match=r"pip-25\.0-"):
        client.install(lock, tmp_path / "prefix", tmp_path / "cache")
    lock.write_text(locked.read_text().replace(channel.URL, made.as_uri()))
    client.install(lock, tmp_path / "prefix", tmp_path / "cache")
    assert (tmp_path / "prefix" / "bin" / "pip").exists()


def test_a_mirror_is_asked_first_and_what_it_lacks_comes_from_the_channel(made, locked, served, tmp_path):
    url, asked = served
    empty = tmp_path / "empty"
    (empty / "noarch").mkdir(parents=True)
    shutil.copy(next((made / "noarch").glob("wheel-*.conda")), empty / "noarch")
    lock = tmp_path / "conda-lock.yml"
    lock.write_text(locked.read_text().replace(channel.URL, url))
    client.install(lock, tmp_path / "prefix", tmp_path / "cache", mirrors=[str(empty)])
    assert not [path for path in asked if "wheel-" in path]
    assert [path for path in asked if "python-" in path]


def test_no_channel_names_its_host(locked, tmp_path):
    lock = tmp_path / "conda-lock.yml"
    lock.write_text(locked.read_text().replace(channel.URL, "http://conda.invalid/channel"))
    with pytest.raises(NetworkError, match=r"conda\.invalid does not answer"):
        client.install(lock, tmp_path / "prefix", tmp_path / "cache")
    assert not client.reachable(lock)


def test_reachable(made, locked, served, tmp_path):
    url, _ = served
    assert client.reachable(locked, [str(made)])
    assert client.reachable(locked, ["http://127.0.0.1:9", url])
    lock = tmp_path / "conda-lock.yml"
    lock.write_text(locked.read_text().replace(channel.URL, url))
    assert client.reachable(lock)


def test_solving_over_http_prefers_what_is_locked(made, locked, served, tmp_path):
    url, _ = served
    mine = tmp_path / "channel"
    shutil.copytree(made, mine)
    channel.stub(mine, "git", "2.99")
    channel.index(mine)
    virtual = [("__glibc", "2.28", "0")]

    def git(*channels, **offer):
        return client.solve(["git"], channels or [channel.URL], virtual, Offer(**offer))[0]

    new = git(repodata=mine)
    kept = git(repodata=mine, locked=locked)
    freed = git(repodata=mine, locked=locked, upgrade=["git"])
    assert [item["version"] for item in (new, kept, freed)] == ["2.99", "2.55.0", "2.99"]
    day = {"locked": locked, "cutoff": date(2025, 4, 3)}
    dated = git(repodata=mine, **day)
    assert dated["version"] == "2.55.0", "a lock names no build times, and its pins are stayed with all the same"
    assert git(url, **day)["version"] == "2.55.0"
    with pytest.raises(ResolutionError, match="git"):
        git(url, locked=locked, cutoff=date(2025, 4, 2))
    assert git(url)["version"] == "2.55.0"
    assert git(locked=locked, locked_only=True)["url"].startswith(channel.URL)
    with pytest.raises(ResolutionError, match="cowsay"):
        client.solve(["cowsay"], [channel.URL], virtual, Offer(repodata=mine))


def test_virtual_packages_are_the_recipes_not_this_machines(made, tmp_path):
    mine = tmp_path / "channel"
    shutil.copytree(made, mine)
    channel.stub(mine, "modern", "1", depends=("__glibc >=2.29",))
    channel.index(mine)
    assert client.solve(["modern"], [channel.URL], [("__glibc", "2.31", "0")], Offer(repodata=mine))
    with pytest.raises(ResolutionError, match="__glibc"):
        client.solve(["modern"], [channel.URL], [("__glibc", "2.28", "0")], Offer(repodata=mine))


def test_the_child_dies_and_it_is_told(made, locked, tmp_path, monkeypatch):
    from verlock.errors import InstallError

    (tmp_path / "rattler.py").write_text("import os; os.abort()\n")
    monkeypatch.setattr(paths, "ROOT", Path(paths.ROOT))
    real = paths.ROOT
    shutil.copytree(real / "verlock", tmp_path / "verlock")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(InstallError, match="the conda engine died"):
        client.install(locked, tmp_path / "prefix", tmp_path / "cache", mirrors=[str(made)])
