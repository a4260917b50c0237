"""locks/SHA256SUMS: the sha256 of every lock as `verlock lock` wrote it, in the form that `sha256sum -c` reads.

The header of a lock tells which inputs it was made from; this file tells whether the rest of it is still what was made from
them. It holds one line for each lock, sorted by path, so that a diff shows which locks changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from verlock import paths
from verlock.errors import LockError
from verlock.system import files
from verlock.variant import lockfiles

NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")  # hex sha256, two blanks, path relative to locks/


def path() -> Path:
    """Where the file is."""
    return paths.LOCKS / NAME


def read() -> dict[str, str]:
    """Path below locks/ -> hex sha256. Raises LockError where the file is missing or has a line of another form."""
    found = {}
    for number, line in enumerate(lockfiles.text_of(path()).splitlines(), 1):
        match = _LINE.fullmatch(line)
        if not match:
            raise LockError(
                f"{paths.shown(path())}, line {number}: not a sha256 and a path: {line[:80]!r}",
                lockfiles.restore(path()),
            )
        found[match[2]] = match[1]
    return found


def locks_in(folder: Path) -> list[Path]:
    """The locks that are in one folder of locks/."""
    if folder == paths.LOCKS / lockfiles.TOOLS:
        return sorted(folder.glob("*.txt"))
    return [folder / name for name in lockfiles.ALL if (folder / name).is_file()]


def has(sums: dict[str, str], lock: Path) -> bool:
    """Whether `sums`, as `read` returns it, has a line for this lock."""
    return _name(lock) in sums


def written(sums: dict[str, str], lock: Path) -> bool:
    """Whether a lock has the bytes that `verlock lock` wrote, by `sums` as `read` returns it."""
    return sums.get(_name(lock)) == files.sha256_if_there(lock)


def update(folders: Iterable[Path]) -> None:
    """Take the locks in these folders as they are now; other lines stay, but for those of locks that are gone.

    Lines of another form, such as a merge's conflict marks, are dropped: `check` names the locks that then have no line.
    """
    old = path().read_text(encoding="utf-8", errors="replace") if path().exists() else ""
    sums = {match[2]: match[1] for line in old.splitlines() if (match := _LINE.fullmatch(line))}
    for folder in folders:
        sums.update((_name(lock), files.sha256(lock)) for lock in locks_in(folder))
    text = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums) if (paths.LOCKS / name).is_file())
    if text != old:
        files.write_whole(path(), text)


def _name(lock: Path) -> str:
    return lock.relative_to(paths.LOCKS).as_posix()
