"""The sha256 of many files at once, on all cores, as fast as the disk gives them.

Threads are enough: reading and hashing a block let go of the interpreter's lock. They need no second start of Python, and
take no more time than processes (measured on 36,000 files of 7.4 GB).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

_BLOCK = 1 << 20  # bytes read at a time
_OPENING = 20_000  # opening a file costs as much as hashing so many bytes


def sha256_of_all(sizes: list[tuple[int, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    """The hashes of files, a share of them at a time as they come.

    Args:
        sizes: size in bytes and path of each file.

    Yields:
        bytes read, and path -> hex sha256; an unreadable file has its error in place of the hash.
    """
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        yield from pool.map(hash_share, shares(sizes, cores))


def shares(sizes: list[tuple[int, str]], cores: int) -> Iterable[list[str]]:
    """Shares of about equal work, the largest files first so that no core is left with one at the end."""
    target = max(sum(size + _OPENING for size, _ in sizes) // (cores * 24), 1)
    share: list[str] = []
    weight = 0
    for size, path in sorted(sizes, reverse=True):
        share.append(path)
        weight += size + _OPENING
        if weight >= target:
            yield share
            share, weight = [], 0
    if share:
        yield share


def hash_share(paths: list[str]) -> tuple[int, dict[str, str]]:
    """(bytes read, path -> hex sha256); an unreadable file gives its error in place of the hash."""
    answers = {}
    count = 0
    view = memoryview(bytearray(_BLOCK))
    for path in paths:
        total = hashlib.sha256()
        try:
            descriptor = os.open(path, os.O_RDONLY)
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123
                while n := file.readinto(view):
                    total.update(view[:n])
                    count += n
            answers[path] = total.hexdigest()
        except OSError as error:
            answers[path] = error.strerror or str(error)
    return count, answers
