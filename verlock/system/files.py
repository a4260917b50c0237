"""Files: their hashes, writing one whole or not at all, and keeping another run out of a folder meanwhile."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from verlock import console

_BLOCK = 1 << 20  # bytes read at a time
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK})


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


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while this is open; where another run holds it, say so (naming `what`) and wait.

    The kernel lets go of the lock however a process ends. (The library filelock does the same; its import alone takes a quarter
    of the time of a run that finds nothing to do.)
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"another run is working on {what}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some cluster file systems have no locks
            if error.errno not in _NO_LOCKS:
                raise
            console.warn(f"the file system of {what} has no locks: let no other run work there meanwhile")
        yield
