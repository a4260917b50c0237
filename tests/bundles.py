"""The toy variant as a repository of git's, its wheels on an index: what bundles are made of in tests."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeindex
import toy
import toysource

FRONT = "frontend"  # a tool, in place of nox and all that verlock itself runs on


class Carrying(toy.Project):
    """A toy project that is committed, with files.json and a lock of tools; `index` serves all that it names.

    `built`: it also has two packages that are built on arrival: gamma from its sdist, and toy from a git source and a released
    wheel, as v1 is.
    """

    def __init__(self, folder: Path, index: fakeindex.FakeIndex, *, built: bool = False) -> None:
        super().__init__(folder)
        self.index = index
        self.mirror = self.folder / "source"
        self.file = self.artefact()
        tools = self.root / "locks/tools"
        tools.mkdir()
        sha256 = index.release(FRONT, "1.0", "2025-01-01")
        (tools / "front.txt").write_text(f"{FRONT}==1.0 --hash=sha256:{sha256}\n")
        if built:
            self._build_on_arrival()
        self.relist()
        if built:
            self._lock_source()
        (self.root / ".gitignore").write_text("__pycache__/\n/envs/\n/.nox/\n")
        toysource.git(self.root, "init", "--quiet")
        self.commit()

    def relist(self) -> None:
        """Put all wheels on the index, and write files.json of what is locked by now."""
        wheels = sorted([*(self.folder / "wheels").glob("*.whl"), *(self.folder / "wheels").glob("*.tar.gz")])
        locked = {
            "requirements.txt": self._listed("requirements.txt", wheels),
            "build-requirements.txt": self._listed("build-requirements.txt", sorted(self.folder.glob("tools/*.whl"))),
        }
        (self.locks / "files.json").write_text(json.dumps(locked))

    def _listed(self, lock: str, files: list[Path]) -> dict[str, Any]:
        """What files.json says of a lock, whose files go onto the index."""
        entries = []
        for file in files:
            name, version = file.name.removesuffix(".tar.gz").split("-")[:2]
            data = file.read_bytes()
            self.index.files.setdefault(name, {})[file.name] = (data, "2025-01-01")
            entry = {"package": name, "version": version, "filename": file.name, "size": len(data)}
            entries.append({**entry, "sha256": toy.sha256(data), "uploaded": "2025-01-01T00:00:00Z"})
        return {"sha256": self._sha256(lock), "files": entries}

    def _build_on_arrival(self) -> None:
        """Add the two packages that are built, and what they are built with."""
        sdist = toysource.sdist(self.folder / "wheels")
        tools = toysource.build_tools(self.folder / "tools")
        with (self.locks / "requirements.txt").open("a") as lock:
            lock.write(f"gamma==1.0 --hash=sha256:{toy.sha256(sdist.read_bytes())}\n")
        (self.locks / "build-requirements.txt").write_text(
            "".join(
                f"{name}=={version} --hash=sha256:{toy.sha256(wheel.read_bytes())}\n"
                for wheel in tools
                for name, version in [wheel.name.split("-")[:2]]
            )
        )
        donor = toysource.donor_wheel(self.folder / "toy-0.7.3-cp38-abi3-manylinux1_x86_64.whl")
        self.index.files["toy"] = {donor.name: (donor.read_bytes(), "2025-01-01")}
        with self.recipe.open("a") as recipe:
            recipe.write('[[sdist]]\npackage = "gamma"\nreason = "test"\n')
            recipe.write(toysource.recipe(self.recipe.parent, toysource.repository(self.mirror), donor))

    def _lock_source(self) -> None:
        """Write sources.json, for which the wheel is built once, as `verlock lock` does it."""
        code = (
            "import json\nfrom verlock.sources import source_wheel\nfrom verlock.variant.chosen import choose\n"
            "print(json.dumps(source_wheel.lock(choose('toy'))))\n"
        )
        done = self.run("-c", code, **self._places())
        assert done.returncode == 0, done.stderr
        (self.locks / "sources.json").write_text(done.stdout)

    def _places(self) -> dict[str, str]:
        """Variables of the places that have all that the project is made of."""
        return {
            "UV_FIND_LINKS": "",
            "UV_DEFAULT_INDEX": self.index.url,
            "VERLOCK_ARTEFACTS": str(self.file.parent),
            "VERLOCK_SOURCE_MIRROR": self.mirror.as_uri(),  # whose path may have a comma
        }

    def _sha256(self, name: str) -> str:
        return toy.sha256((self.locks / name).read_bytes())

    def commit(self) -> None:
        """Commit all."""
        toysource.git(self.root, "add", "--all")
        toysource.git(self.root, "commit", "--quiet", "--message", "toy")

    def bundle(self, to: Path, *arguments: str, code: int = 0, **more: str) -> str:
        """`verlock bundle toy`, from the index and the artefact's folder; returns what it said."""
        done = self.run("bundle", "toy", "--base", "host", "--to", str(to), *arguments, **{**self._places(), **more})
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
        return self.create(**self._places())

    def checked(self, bundle: Path, *, code: int = 0) -> str:
        """`verlock bundle --verify` on that bundle; returns what it said."""
        done = self.run("bundle", "--verify", str(bundle))
        assert done.returncode == code, done.stderr
        return done.stderr


@contextlib.contextmanager
def carrying(folder: Path, *, built: bool = False) -> Iterator[Carrying]:
    """A project whose index runs meanwhile."""
    with fakeindex.serve() as index:
        yield Carrying(folder, index, built=built)


def started(bundle: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a bundle's own starter, with nothing of verlock to import."""
    command = [sys.executable, "-I", str(bundle / "verlock"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
