"""The sha256 of many files at once, on all cores, as fast as the disk gives them.

Threads are enough for large files: reading and hashing a block let go of the interpreter's lock. Small ones take most of their
time in Python, so one thread has them all (measured on two cores: 74,000 files of 2.6 GB take one thread 3.1 s, and two 3.6 s).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from verlock.system.beside import beside

_BLOCK = 1 << 18  # bytes read at a time: a core's own cache holds them (four times as many take half again as long)
_SMALL = 1 << 20  # bytes of a file that counts as small
_OPENING = 20_000  # opening a file costs as much as hashing so many bytes
_SHARE = 64 << 20  # bytes of work that a thread takes on at a time, a twentieth of a second or so
_LOOK = 0.2  # seconds between two looks for new folders
# Seconds that a thread waits for the interpreter's lock while another computes; after each block, so Python's own 5 ms would
# leave a thread that hashes a twentieth of its speed.
_PATIENCE = 0.0001
_MODEST = 19  # niceness of the threads that read ahead: the installer comes first

_Answer = TypeVar("_Answer")
_Identity = tuple[int, int, int, int]  # device, number, size in bytes, time of the last change in nanoseconds
_File = tuple[str, _Identity]  # its path, and what it is


def sha256_of_all(sizes: list[tuple[int, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    """The hashes of files, a share of them at a time as they come.

    Args:
        sizes: size in bytes and path of each file.

    Yields:
        bytes read, and path -> hex sha256; an unreadable file has its error in place of the hash.
    """
    with _Threads() as threads:
        work = [(share, partial(hash_share, [path for _, path in share])) for share in shares(sizes)]
        for done in as_completed([threads.submit(*each) for each in work]):
            yield done.result()


Share = list[tuple[int, str]]  # size in bytes and path of each file


def shares(sizes: Iterable[tuple[int, str]]) -> Iterator[Share]:
    """Shares of about equal work, of small files or of large ones; the largest first, so that none is left for the end."""
    share: Share = []
    weight, least = 0, _SMALL
    for each in sorted(sizes, key=itemgetter(0), reverse=True):
        if share and (weight >= _SHARE or each[0] <= least):
            yield share
            share, weight = [], 0
        if each[0] <= least:
            least = -1  # small ones from here on
        share.append(each)
        weight += each[0] + _OPENING
    if share:
        yield share


class _Threads:
    """Threads that hash: for large files one on each core, and one for all small files."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        self._small = ThreadPoolExecutor(1, initializer=prepare)
        self._large = ThreadPoolExecutor(_cores(), initializer=prepare)

    def submit(self, share: Share, work: Callable[[], _Answer]) -> Future[_Answer]:
        """Have the files of a share hashed by `work`."""
        return (self._small if share[0][0] <= _SMALL else self._large).submit(work)

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._small, self._large):
            pool.shutdown(cancel_futures=True)


def hash_share(paths: list[str]) -> tuple[int, dict[str, str]]:
    """(bytes read, path -> hex sha256); an unreadable file gives its error in place of the hash."""
    answers = {}
    count = 0
    block = memoryview(bytearray(_BLOCK))
    for path in paths:
        try:
            answers[path], status = _hash(path, block)
            count += status.st_size
        except OSError as error:
            answers[path] = error.strerror or str(error)
    return count, answers


def _hash(path: str, block: memoryview) -> tuple[str, os.stat_result]:
    """The hex sha256 of a file, and its status after it was read."""
    total = hashlib.sha256()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while count := os.readv(descriptor, [block]):
            total.update(block[:count])
        return total.hexdigest(), os.fstat(descriptor)
    finally:
        os.close(descriptor)


class Hashed:
    """The hashes of files that are read while something else is done, first of all while uv waits for the network.

    uv moves each unpacked wheel into its store when it is whole, and links its files into the environment at the end: a file
    there that is the same, by device and number, size and time of its last change, has the hash that it had in the store.
    Who changes its bytes in between and puts size and time back is seen by `verify` only, which reads everything.

    A context manager: at its end nothing is read any more.
    """

    def __init__(self) -> None:
        self._known: dict[_Identity, str] = {}
        self._taken: set[_Identity] = set()  # known, or to be read: so that none is read twice
        self._shares: dict[Future[int], list[_File]] = {}  # what is still to be read; each gives its bytes
        self._lister = contextlib.ExitStack()
        self._threads = contextlib.ExitStack()

    def __enter__(self) -> Hashed:
        self._patience = sys.getswitchinterval()
        sys.setswitchinterval(_PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._lister.close()
        self._threads.close()  # what none of them has begun is left
        sys.setswitchinterval(self._patience)

    def of(self, status: os.stat_result) -> str:
        """The hex sha256 of the file of this status; empty where it was not read, or was changed since."""
        return self._known.get(_identity(status), "")

    def watch(self, store: Path) -> None:
        """From now on read the files of each folder that comes into `store`, but never in the way of who brings them."""
        self._lister.close()
        seen = _folders(store)
        threads = self._threads.enter_context(_Threads(_step_back))
        self._lister.enter_context(beside(lambda over: self._list(store, seen, over, threads)))

    def hurry(self) -> None:
        """Who brought the files is done: what is still to be read is read as fast as the cores allow."""
        self._lister.close()
        self._submit(self._drop(), self._threads.enter_context(_Threads()))

    def begin(self, files: Iterable[tuple[os.stat_result, str]]) -> None:
        """Read these too, beside what the caller does next; what was to be read and is not among them is left."""
        self._lister.close()
        self._drop()
        there = ((path, _identity(status)) for status, path in files if stat.S_ISREG(status.st_mode))
        self._submit(there, self._threads.enter_context(_Threads()))

    def wait(self, tell: Callable[[int], None] = lambda count: None) -> None:
        """Wait until all that was begun is read; `tell` of the bytes of each share."""
        for share in as_completed(self._shares):
            tell(share.result())
        self._shares.clear()

    def _drop(self) -> list[_File]:
        """Take back what no thread has begun to read, and give it."""
        dropped = []
        for share, files in list(self._shares.items()):
            if share.cancel():
                dropped += files
                del self._shares[share]
        self._taken.difference_update(identity for _, identity in dropped)
        return dropped

    def _list(self, store: Path, seen: set[str], over: threading.Event, threads: _Threads) -> None:
        while not over.wait(_LOOK):
            for name in sorted(_folders(store) - seen):
                seen.add(name)
                with contextlib.suppress(OSError):  # gone again: not read ahead, then
                    paths = [os.path.join(folder, file) for folder, _, files in os.walk(store / name) for file in files]  # noqa: PTH118
                    there = [(path, os.lstat(path)) for path in paths]
                    self._submit(
                        ((path, _identity(each)) for path, each in there if stat.S_ISREG(each.st_mode)), threads
                    )

    def _submit(self, files: Iterable[_File], threads: _Threads) -> None:
        there = {path: identity for path, identity in files if identity not in self._taken}
        self._taken.update(there.values())
        for share in shares((identity[2], path) for path, identity in there.items()):
            mine = [(path, there[path]) for _, path in share]
            self._shares[threads.submit(share, partial(self._read, mine))] = mine

    def _read(self, files: list[_File]) -> int:
        count = 0
        block = memoryview(bytearray(_BLOCK))
        for path, identity in files:
            with contextlib.suppress(OSError):
                sha256, status = _hash(path, block)
                count += status.st_size
                if _identity(status) == identity:
                    self._known[identity] = sha256
        return count


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _step_back() -> None:
    """Let this thread run when no other wants to."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _MODEST)


def _folders(store: Path) -> set[str]:
    with contextlib.suppress(OSError), os.scandir(store) as entries:
        return {entry.name for entry in entries}
    return set()
