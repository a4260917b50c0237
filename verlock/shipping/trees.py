"""Trees as archives that are the same to the byte wherever they are made: verlock's repository, a git source, an interpreter.

Plain tar: entries sorted, no owners, one time for all, and of the modes only whether a file can be run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from verlock import paths
from verlock.errors import BundleRefused
from verlock.sources import git_apply, git_commit
from verlock.system import files, process
from verlock.system.host_python import HostPython
from verlock.variant.recipe import Source

EPOCH = 315532800  # 1980-01-01 UTC: the earliest time that a zip can hold, should one be made of these files
_LEFT_OUT = {"__pycache__", "site-packages", "test", "tests"}  # of an interpreter
_SYSTEM = ("/", "/usr", "/usr/local")
_ASK = "import json, sys; print(json.dumps([sys.base_prefix, sys.version_info[:2]]))"


def write(out: Path, root: Path, names: Iterable[str], changed: dict[str, bytes] | None = None, top: str = "") -> None:
    """Write an archive of files and links below `root`.

    Args:
        out: the archive.
        root, names: where, and the paths of files and links relative to it.
        changed: other content for some of them.
        top: a folder that all are put into, such as "toy/".
    """
    with tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(names):
            add(archive, root / name, f"{top}{name}", (changed or {}).get(name))


def add(archive: tarfile.TarFile, path: Path, name: str, content: bytes | None = None) -> None:
    """Add one file or link under a name, with other content than its own where that is given."""
    entry = tarfile.TarInfo(name)
    entry.mtime = EPOCH
    if path.is_symlink():
        entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
        archive.addfile(entry)
        return
    status = path.stat()
    entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
    entry.size = status.st_size if content is None else len(content)
    with io.BytesIO(content) if content is not None else path.open("rb") as file:
        archive.addfile(entry, file)


def add_text(archive: tarfile.TarFile, name: str, text: str, *, program: bool = False) -> None:
    """Add a file with this text under a name."""
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(data), EPOCH, 0o755 if program else 0o644
    archive.addfile(entry, io.BytesIO(data))


# the repository ---------------------------------------------------------------------------------------


def commit() -> str:
    """The commit that this clone is at, in hex. Raises BundleRefused for no clone, and where something is not committed."""
    at = _git("rev-parse", "--verify", "HEAD").strip()
    if changed := _git("status", "--porcelain").splitlines():
        raise BundleRefused(
            f"{paths.ROOT} has changes that are in no commit ({len(changed)}), such as {changed[0][3:]}",
            "a bundle carries the repository at its commit: commit them, or move them away",
        )
    return at


def repository(at: str, out: Path) -> None:
    """Write the files of a commit of this clone as an archive. Raises BundleRefused."""
    _git("archive", "--format=tar", f"--output={out}", at)


def _git(*arguments: str, store: Path | None = None, listed: str = "") -> str:
    """What git prints, in this clone or of a git directory; `listed` is its standard input."""
    where = ("-c", "core.quotePath=false", "-c", "tar.umask=0022") if store is None else ("--git-dir", str(store))
    done = subprocess.run(
        process.bound([git_apply.git(), *where, *arguments]),
        cwd=paths.ROOT,
        env=process.GIT.environment(),
        input=listed,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        remedy = "make the bundle from a clone of verlock's repository that belongs to you"
        raise BundleRefused(
            f"git {' '.join(arguments[:3])} fails in {store or paths.ROOT}: {done.stderr.strip() or done.returncode}",
            f"remove {store}, and run again" if store else remedy,
        )
    return done.stdout


# a git source -----------------------------------------------------------------------------------------


def source(wanted: Source, scratch: Path, out: Path) -> None:
    """Write the store of a source's commit (`git_commit.store`) as an archive.

    git packs what it fetches in another order each time, and compresses it in another way on each machine. So the objects are
    packed again, in a fixed order and uncompressed: the same commit then gives the same bytes.

    Raises as `git_commit.store`, and BundleRefused.
    """
    store = git_commit.store(wanted)
    packs = scratch / "objects" / "pack"
    packs.mkdir(parents=True)

    listed = _git("rev-list", "--objects", "--no-object-names", wanted.commit, store=store)
    options = (
        "--quiet",
        "--threads=1",
        "--window=0",
        "--depth=0",
        "--no-reuse-delta",
        "--no-reuse-object",
        "--compression=0",
    )
    _git(
        "-c", "pack.writeReverseIndex=false", "pack-objects", *options, str(packs / "pack"), store=store, listed=listed
    )
    for name in ("HEAD", "config", "shallow"):
        if (store / name).exists():
            (scratch / name).write_bytes((store / name).read_bytes())
    for line in _git("for-each-ref", "--format=%(objectname) %(refname)", store=store).splitlines():
        sha1, _, ref = line.partition(" ")
        (scratch / ref).parent.mkdir(parents=True, exist_ok=True)
        (scratch / ref).write_text(f"{sha1}\n")
    write(out, scratch, _files(scratch), top=f"{store.name}/")


# an interpreter ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interpreter:
    """What a host's CPython is made of: the tree of its `sys.base_prefix`.

    `names` are relative to `root`. Left out are other programs than Python's own, static libraries, byte code, tests, and
    installed packages, which no environment sees.
    """

    root: Path
    version: str
    names: tuple[str, ...]
    changed: dict[str, bytes]

    def sha256(self, name: str) -> str:
        """The hex sha256 that a file of `names` has in the archive."""
        data = self.changed.get(name)
        return files.sha256(self.root / name) if data is None else hashlib.sha256(data).hexdigest()

    def programs(self) -> dict[str, str]:
        """The sha256 of Python's own programs and libraries, by their names; links are left out."""
        own = [name for name in self.names if name.startswith(("bin/python", "lib/libpython"))]
        return {name: self.sha256(name) for name in own if not (self.root / name).is_symlink()}


def interpreter(host: HostPython) -> Interpreter:
    """The tree of a host's CPython, such that it runs at any place. Raises BundleRefused for the system's own Python.

    Where its program finds libpython by an absolute path, that path is overwritten in place with one that is relative to the
    program; a program with that other path has another sha256 than it had here.
    """
    done = subprocess.run([host.executable, "-I", "-c", _ASK], capture_output=True, text=True, check=True)
    prefix, (major, minor) = json.loads(done.stdout)
    if prefix in _SYSTEM:
        raise BundleRefused(
            f"{host.executable} is a part of the system, spread over {prefix}, and cannot be carried",
            f"have another CPython {major}.{minor} (`uv python install {major}.{minor}`, or pyenv), or use `--base conda`",
        )
    root = Path(prefix)
    names = [name for name in _files(root, skip=_LEFT_OUT) if _is_pythons(name)]
    old, new = os.fsencode(root / "lib") + b"\0", b"$ORIGIN/../lib"
    changed = {}
    for name in names:
        if name.startswith("bin/") and not (root / name).is_symlink() and old in (data := (root / name).read_bytes()):
            if len(old) <= len(new):
                raise BundleRefused(
                    f"{root / name} finds its library at {root}/lib, too short a path to be replaced",
                    "have a CPython in a folder with a longer path, or use `--base conda`",
                )
            changed[name] = data.replace(old, new.ljust(len(old), b"\0"))
    return Interpreter(root, host.version, tuple(names), changed)


def _is_pythons(name: str) -> bool:
    top, _, rest = name.partition("/")
    return not name.endswith((".a", ".pyc")) and (
        top in ("lib", "include") or (top == "bin" and rest.startswith("python"))
    )


def _files(root: Path, skip: Iterable[str] = ()) -> list[str]:
    """All files and links below `root`, relative to it and sorted; nothing in folders with a name of `skip`."""
    found = []
    for folder, folders, names in os.walk(root):
        links = [name for name in folders if Path(folder, name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in skip)
        found += [str(Path(folder, name).relative_to(root)) for name in (*names, *links)]
    return sorted(found)
