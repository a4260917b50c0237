"""Files: their hashes, writing or deleting one whole or not at all, and keeping another run out of a folder meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from verlock import console

_BLOCK = 1 << 20  # bytes read at a time
_TRASH = ".trash-"
_DRAFT = re.compile(r"\..+\.(\d+)(?:-\d+)?")  # as `draft_of` names them; the number is the writer's process
_IDLE = (
    600.0  # seconds; whoever still writes a draft, on this machine or on another that shares the cache, writes sooner
)
_DAY = 86400.0
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK})


def sha256(path: Path) -> str:
    """The hex sha256 of a file's bytes. Raises OSError."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def sha256_if_there(path: Path) -> str | None:
    """The hex sha256 of a file's bytes; None where there is no such file, or it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return None


def write_whole(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a file so that no reader, and no run after a kill, ever meets half of it.

    Args:
        path: where; its folder is made where it is not there.
        content: text (written as UTF-8) or bytes.
        durable: also wait until it is on the disk, for what vouches for something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    try:
        with draft.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def draft_of(path: Path) -> Path:
    """Where a file is written before it is renamed into place: beside it, with a name that no other writer has."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")


def discard(path: Path, name: str = "") -> None:
    """Delete a folder that has a name that counts: it loses that name first, so a kill half-way leaves nothing but trash.

    `name` is whose trash it becomes, for `empty_trash`; its own where none is given. Raises OSError where it cannot be renamed.
    """
    trash = path.with_name(f".{name or path.name}{_TRASH}{os.getpid()}-{time.monotonic_ns()}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def empty_trash(path: Path) -> None:
    """Delete what a killed run had begun to delete of `path`. Only for who is `alone` with it."""
    for trash in path.parent.iterdir() if path.parent.is_dir() else ():
        if trash.name.startswith(f".{path.name}{_TRASH}"):
            shutil.rmtree(trash, ignore_errors=True)


def clear_drafts(folder: Path) -> None:
    """Delete what killed runs left in a cache: drafts (as `draft_of` names them), and hidden folders untouched for a day.

    A draft is deleted when its process is not on this machine and nobody has written to it for ten minutes: the writer may be on
    another machine that shares the cache. Looks into `folder` and the folders in it, no deeper.
    """
    for path in [*folder.glob(".*"), *folder.glob("*/.*")]:
        with contextlib.suppress(OSError):
            idle = time.time() - path.stat().st_mtime
            if path.is_dir() and idle > _DAY:
                shutil.rmtree(path, ignore_errors=True)
            elif (match := _DRAFT.fullmatch(path.name)) and idle > _IDLE and not _lives(int(match[1])):
                path.unlink()


def _lives(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


def own_bytes(folder: Path) -> int:
    """The bytes on the disk that deleting a folder would free: files that are hardlinked from elsewhere too are left out.

    Takes about 0.2 s for an environment.
    """
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(where, name))  # noqa: PTH118 (Path objects cost too much here)
                total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while this is open; where another run holds it, say so (naming `what`) and wait.

    The kernel lets go of the lock however a process ends. (The library filelock does the same; its import alone takes a quarter
    of the time of a run that finds nothing to do.)
    """
    try:
        file = path.open("w")
    except PermissionError:  # another user's, in a folder that both write to: a lock needs no more than to read it
        file = path.open("r")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"another run is working on {what}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some cluster file systems have no locks
            if error.errno not in NO_LOCKS:
                raise
            console.warn(f"the file system of {what} has no locks: let no other run work there meanwhile")
        yield
