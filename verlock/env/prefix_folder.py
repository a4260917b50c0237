"""The folder of an environment: begun empty, replaced or left as it was, and whole again after a run that ended in any moment.

Beside `envs/toy` may lie `.toy.lock` (who works on it), `.toy.old` (the environment that waits until its replacement is done) and
`.toy.trash-*` (what is being deleted). No folder is deleted under a name that counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from verlock.errors import NoBase
from verlock.system.files import discard, empty_trash
from verlock.variant import receipt

MARKER = ".verlock"  # in a prefix from its first moment on: this folder is verlock's to delete


@contextlib.contextmanager
def replacing(prefix: Path) -> Iterator[None]:
    """Begin an empty `prefix`; what was there comes back if no receipt is in its replacement at the end, else is deleted.

    Raises NoBase for a folder that verlock did not make: it may hold somebody's work.
    """
    try:
        clear(prefix)
        yield
    finally:  # after Ctrl-C as well: where nothing was gained, nothing is lost
        settle(prefix)


def aside_of(prefix: Path) -> Path:
    """Where the environment that was at `prefix` waits until its replacement is done."""
    return prefix.with_name(f".{prefix.name}.old")


def clear(prefix: Path) -> None:
    """Put aside the environment that is there, if any, and begin an empty folder, marked as verlock's.

    Raises NoBase for a folder that verlock did not make: it may hold somebody's work.
    """
    settle(prefix)
    aside, sealed = aside_of(prefix), (prefix / receipt.NAME).exists()
    if foreign := [path for path in (prefix, aside) if sealed == (path == aside) and not _empty(path)]:
        raise NoBase(
            f"{foreign[0]} exists and was not made by verlock",
            "move it away, or name another folder with VERLOCK_ENVS",
        )
    if sealed:
        prefix.rename(aside)
    mark(prefix)


def settle(prefix: Path) -> None:
    """Leave of all that a run may have left, in whatever moment it ended, one environment at `prefix`, or none.

    Which of them counts is told by the receipt alone, for it is written last: a new environment that has it is whole and the old
    one is deleted; one that does not have it is deleted, and the old one comes back. Every change of state is one renaming, so
    a run that is killed in here is settled by the next one. Only for who is alone with the prefix.
    """
    aside = aside_of(prefix)
    if not (prefix / receipt.NAME).exists() and (prefix / MARKER).exists():
        discard(prefix)
    if (aside / receipt.NAME).exists() or (aside / MARKER).exists():
        if _empty(prefix) and (aside / receipt.NAME).exists():
            aside.rename(prefix)
        elif (prefix / receipt.NAME).exists() or not (aside / receipt.NAME).exists():
            discard(aside, prefix.name)
    empty_trash(prefix)


def again(prefix: Path) -> None:
    """Begin the empty, marked folder once more, without what was put into it."""
    discard(prefix)
    mark(prefix)


def mark(prefix: Path) -> None:
    """Have a folder at `prefix` that is known as verlock's to delete."""
    prefix.mkdir(parents=True, exist_ok=True)
    (prefix / MARKER).write_text("verlock made this folder, and may delete it and make it again.\n")


def _empty(prefix: Path) -> bool:
    return not prefix.exists() or (prefix.is_dir() and not any(prefix.iterdir()))
