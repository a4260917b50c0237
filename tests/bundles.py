"""The toy variant as a repository of git's, its wheels on an index: what bundles are made of in tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fakeindex
import toy
import toysource

FRONT = "frontend"  # a tool, in place of nox and all that verlock itself runs on


class Carrying(toy.Project):
    """A toy project that is committed, with files.json and a lock of tools; `index` serves all that it names."""

    def __init__(self, folder: Path, index: fakeindex.FakeIndex) -> None:
        super().__init__(folder)
        self.index = index
        self.file = self.artefact()
        tools = self.root / "locks/tools"
        tools.mkdir()
        sha256 = index.release(FRONT, "1.0", "2025-01-01")
        (tools / "front.txt").write_text(f"{FRONT}==1.0 --hash=sha256:{sha256}\n")
        self.relist()
        (self.root / ".gitignore").write_text("__pycache__/\n/envs/\n/.nox/\n")
        toysource.git(self.root, "init", "--quiet")
        self.commit()

    def relist(self) -> None:
        """Put all wheels on the index, and write files.json of what is locked by now."""
        entries = []
        for wheel in sorted((self.folder / "wheels").glob("*.whl")):
            name, version = wheel.name.split("-")[:2]
            data = wheel.read_bytes()
            self.index.files.setdefault(name, {})[wheel.name] = (data, "2025-01-01")
            entry = {"package": name, "version": version, "filename": wheel.name, "size": len(data)}
            entries.append({**entry, "sha256": toy.sha256(data), "uploaded": "2025-01-01T00:00:00Z"})
        locked = {
            "requirements.txt": {"sha256": self._sha256("requirements.txt"), "files": entries},
            "build-requirements.txt": {"sha256": self._sha256("build-requirements.txt"), "files": []},
        }
        (self.locks / "files.json").write_text(json.dumps(locked))

    def _sha256(self, name: str) -> str:
        return toy.sha256((self.locks / name).read_bytes())

    def commit(self) -> None:
        """Commit all, at a time that is always the same."""
        toysource.git(self.root, "add", "--all")
        day = "2025-01-01T00:00:00Z"
        os.environ |= {"GIT_AUTHOR_DATE": day, "GIT_COMMITTER_DATE": day}
        toysource.git(self.root, "commit", "--quiet", "--message", "toy")

    def bundle(self, to: Path, *arguments: str, code: int = 0, **more: str) -> str:
        """`verlock bundle toy`, from the index and the artefact's folder; returns what it said."""
        places = {"UV_FIND_LINKS": "", "UV_DEFAULT_INDEX": self.index.url, "VERLOCK_ARTEFACTS": str(self.file.parent)}
        done = self.run("bundle", "toy", "--base", "host", "--to", str(to), *arguments, **{**places, **more})
        assert done.returncode == code, done.stderr
        return done.stderr

    def create_from(self, bundle: Path, *arguments: str, code: int = 0, **more: str) -> str:
        """`verlock create toy --from` that bundle, with empty caches and nothing else to fetch from."""
        for cache in ("cache", "uv-cache"):
            shutil.rmtree(self.folder / cache, ignore_errors=True)
        return self.create(
            "--base", "auto", "--from", str(bundle), "--offline", *arguments, code=code, UV_FIND_LINKS="", **more
        )

    def create_online(self) -> str:
        """`verlock create toy` with empty caches, from the index."""
        for cache in ("cache", "uv-cache"):
            shutil.rmtree(self.folder / cache, ignore_errors=True)
        places = {"UV_FIND_LINKS": "", "UV_DEFAULT_INDEX": self.index.url, "VERLOCK_ARTEFACTS": str(self.file.parent)}
        return self.create(**places)

    def checked(self, bundle: Path, *, code: int = 0) -> str:
        """`verlock bundle --verify` on that bundle; returns what it said."""
        done = self.run("bundle", "--verify", str(bundle))
        assert done.returncode == code, done.stderr
        return done.stderr


@contextlib.contextmanager
def carrying(folder: Path) -> Iterator[Carrying]:
    """A project whose index runs meanwhile."""
    with fakeindex.serve() as index:
        yield Carrying(folder, index)


def started(bundle: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a bundle's own starter, with nothing of verlock to import."""
    command = [sys.executable, "-I", str(bundle / "verlock"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
