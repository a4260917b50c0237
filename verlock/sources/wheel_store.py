"""Wheel files that verlock keeps itself, by their sha256: those it built, and the released ones they are built from.

A file is looked for in the cache, then in the folder or mirror `VERLOCK_ARTEFACTS` if that is set. Its bytes are hashed at
every use; a damaged file in the cache is removed, then fetched or built again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from verlock import console, paths
from verlock.errors import IntegrityError, LockError, NetworkError
from verlock.system import addresses, download, files, package_index, process, uv

if TYPE_CHECKING:
    from verlock.variant.recipe import Precompiled

_DAY = 86400.0


def root() -> Path:
    """The folder that holds them."""
    return paths.cache_dir() / "wheels"


def kept(filename: str, sha256: str) -> Path | None:
    """The file of that name and hash, or None."""
    if found := cached(filename, sha256):
        return found
    for place in download.users_places(filename):
        if isinstance(place, Path) and not place.is_file():
            continue
        with scratch("copy") as work, contextlib.suppress(NetworkError):  # a mirror need not have every file
            download.fetch_first([place], work / filename, sha256)
            return keep(work / filename, sha256)
    return None


def cached(filename: str, sha256: str) -> Path | None:
    """The file of that name and hash in the cache alone, or None."""
    path = place(filename, sha256)
    if path.exists():
        if files.sha256(path) == sha256:
            return path
        console.warn(f"{path} is damaged and is removed")
        path.unlink()
    return None


def place(filename: str, sha256: str) -> Path:
    """Where the file of that name and hash is kept, whether it is there or not."""
    return root() / sha256 / filename


def keep(file: Path, sha256: str) -> Path:
    """Move a verified file from a `scratch` folder to its place. Two runs may do so at once: the bytes are equal."""
    path = place(file.name, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    return file.replace(path)


@contextlib.contextmanager
def scratch(what: str) -> Iterator[Path]:
    """A folder beside the kept files (so that uv can hardlink and `keep` can rename), removed afterwards.

    What a killed run left is removed a day later.
    """
    root().mkdir(parents=True, exist_ok=True)
    for left in root().glob(".scratch-*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root(), prefix=f".scratch-{what}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def precompiled(donor: Precompiled, python: str) -> Path:
    """The released wheel with the compiled objects, by its sha256: from the cache, `VERLOCK_ARTEFACTS` or the index.

    Raises:
        IntegrityError: the index serves other bytes.
        NetworkError: no index answers, or this run is offline.
    """
    if found := kept(donor.filename, donor.sha256):
        return found
    index = package_index.chosen()
    if paths.offline():
        bundle = paths.bundle_dir()
        raise NetworkError(
            f"{index} is not asked for {donor.filename}: {download.OFFLINE}",
            f"`nox -s bundle -- --verify {bundle}` says whether the bundle is whole"
            if bundle
            else "put it into the folder VERLOCK_ARTEFACTS",
        )
    told = f"{donor.filename}, {donor.size / 1e6:.0f} MB from {index}"
    with scratch("donor") as work, console.step("download", told):
        wanted = work / "wanted.txt"
        wanted.write_text(f"{donor.package}=={donor.version} --hash=sha256:{donor.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        command += ["--python-version", python, "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
        done = subprocess.run(
            process.bound([*command, "--dest", str(work), "--requirement", str(wanted)]),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **package_index.for_pip()},
        )
        if "DO NOT MATCH THE HASHES" in done.stderr:
            got = re.search(r"Got\s+([0-9a-f]{64})", done.stderr)
            raise IntegrityError.of(
                donor.filename, donor.sha256, got[1] if got else "another", "the index serves other bytes"
            )
        if done.returncode:
            remedy = f"check the network and the index, or put {donor.filename} into the folder VERLOCK_ARTEFACTS"
            raise NetworkError(
                f"{donor.filename} cannot be downloaded from {index}; pip says\n"
                + process.tail(addresses.scrubbed(done.stderr), 6),
                remedy,
            )
        file = work / donor.filename
        if not file.exists() or files.sha256(file) != donor.sha256:
            raise IntegrityError.of(
                donor.filename, donor.sha256, files.sha256(file) if file.exists() else "another file"
            )
        return keep(file, donor.sha256)


def unpack(package: str, requirements: Path, python: str, into: Path) -> None:
    """Install one locked package, without its dependencies, into the folder `into`.

    Raises:
        LockError: requirements.txt does not name it.
        InstallError, IntegrityError, NetworkError: from uv.
    """
    block = re.search(rf"^{re.escape(package)}==(?:.*\\\n)*.*$", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    if block is None:
        raise LockError(f"{requirements} does not name {package}, which a patch is for", "lock again: `nox -s lock`")
    with scratch("one") as work:
        one = work / "requirements.txt"
        one.write_text(block[0] + "\n", encoding="utf-8")
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", python]
        uv.run(["pip", "install", *options, "--target", str(into), "--requirement", str(one)])
