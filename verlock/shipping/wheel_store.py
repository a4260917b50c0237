"""The wheel store: the files that were fetched for bundles, kept below `VERLOCK_CACHE` by their sha256.

uv's cache holds wheels unpacked, and a bundle needs them as files. All variants share the store; it costs what the wheels weigh
(3 GB for one variant), and `prune` drops what no lock of this clone names. Every file is hashed each time it is used.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256 as sha256_of
from pathlib import Path

from verlock import console, paths
from verlock.env import hashing
from verlock.errors import LockError, NetworkError
from verlock.locking import locked_files, loopback_index, wheel_tags
from verlock.system import addresses, download, files
from verlock.variant import lockfiles
from verlock.variant.chosen import choose, names

_AT_ONCE = 4  # downloads
_SHA256 = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, order=True)
class Wanted:
    """A file of a package on the index: its size in bytes, its sha256 in hex."""

    filename: str
    sha256: str
    size: int
    package: str


def root() -> Path:
    """The folder of the store."""
    return paths.cache_dir() / "bundle-wheels"


def place(wanted: Wanted) -> Path:
    """Where a file is kept, whether it is there or not."""
    return root() / wanted.sha256 / wanted.filename


def size() -> int:
    """The bytes that the store takes."""
    return sum(path.stat().st_size for path in root().glob("*/*"))


def have(wanted: Iterable[Wanted], tell: Callable[[str], None] = lambda text: None) -> None:
    """Have all these files in the store, whole: what is not there, or is damaged, is fetched from the user's index.

    Args:
        wanted: which; several may be the same.
        tell: called now and then with what is being done, such as "120 of 3100 MB fetched".

    Raises:
        NetworkError: the index does not answer, or does not have a locked file.
        IntegrityError: it gives other bytes.
    """
    files.clear_drafts(root())
    missing = sorted(set(wanted) - _sound(set(wanted), tell))
    if not missing:
        return
    total, fetched, lock = sum(each.size for each in missing), 0, threading.Lock()

    def fetch(each: Wanted, url: str) -> None:
        nonlocal fetched
        _fetch(each, url)
        with lock:
            fetched += each.size
            tell(f"{fetched / 1e6:.0f} of {total / 1e6:.0f} MB fetched")

    located = _located(missing)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        waiting = [pool.submit(fetch, each, located[each.sha256]) for each in missing]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def of_lock(folder: Path) -> list[Wanted]:
    """The files of a variant's pip layer and of what its sdists are built with, by its files.json. Raises LockError."""
    lockfiles.taken(folder)  # are they those of the pins?
    locked = lockfiles.files(folder)
    if locked[lockfiles.BUILD_REQUIREMENTS]["sha256"] != files.sha256_if_there(folder / lockfiles.BUILD_REQUIREMENTS):
        raise LockError(
            f"{paths.shown(folder / lockfiles.FILES)} was made from other pins", "make it again with `nox -s lock`"
        )
    listed = [each for name in lockfiles.PIP_LAYER for each in locked[name]["files"]]
    return sorted({Wanted(each["filename"], each["sha256"], each["size"], each["package"]) for each in listed})


def of_tools(lock: Path, python: str, glibc: str) -> list[Wanted]:
    """The files that a CPython such as 3.12 takes of a lock of tools, on a system with this glibc.

    Such a lock names the files of all Pythons and systems. Which of them fit is asked of the index once, and remembered.

    Raises:
        ResolverDisagreement: a tool has no file that fits.
        NetworkError, LockError.
    """
    known = sha256_of(f"{files.sha256(lock)} {python} {glibc}".encode()).hexdigest()
    index_file = root() / f"tools-{known[:32]}.json"
    if index_file.exists():
        return [Wanted(**each) for each in json.loads(index_file.read_text(encoding="utf-8"))]
    pins = [pin for pin in lockfiles.pins(lock, forked=True) if _applies(pin.marker, python)]
    with loopback_index.serve() as index:
        index.prefetch([pin.name for pin in pins])
        ranks = wheel_tags.supported(python, glibc)
        taken = [(pin.name, locked_files.taken(pin, index.files(pin.name), ranks)) for pin in pins]
    found = sorted(Wanted(file.filename, file.sha256, file.size or 0, name) for name, file in taken)
    files.write_whole(index_file, json.dumps([each.__dict__ for each in found], indent=1))
    return found


def prune() -> int:
    """Drop what no lock of this clone names; returns how many bytes that freed. Raises LockError where a lock is broken."""
    named = {
        each.sha256
        for name in names()
        for chosen in choose(name).pythons()
        if (chosen.locks / lockfiles.FILES).exists()
        for each in of_lock(chosen.locks)
    }
    for lock in (paths.LOCKS / lockfiles.TOOLS).glob("*.txt"):
        named.update(_SHA256.findall(lockfiles.text_of(lock)))
    before = size()
    for path in root().iterdir() if root().is_dir() else ():
        if path.is_dir() and path.name not in named:
            shutil.rmtree(path)
        elif path.name.startswith("tools-"):
            path.unlink()  # cheap to ask again, and it may be of a lock that is gone
    return before - size()


def _sound(wanted: set[Wanted], tell: Callable[[str], None]) -> set[Wanted]:
    """Those that are in the store with their very bytes; what is damaged there is removed."""
    there = {str(place(each)): each for each in wanted if place(each).is_file()}
    found: set[Wanted] = set()
    total, done = sum(each.size for each in there.values()), 0
    for hashed, answers in hashing.sha256_of_all([(each.size, path) for path, each in there.items()]):
        done += hashed
        tell(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB hashed")
        for path, got in answers.items():
            if got == there[path].sha256:
                found.add(there[path])
            else:
                console.warn(f"{path} is damaged and is fetched again")
                Path(path).unlink()
    return found


def _located(wanted: Sequence[Wanted]) -> dict[str, str]:
    """The address of each file on the user's index, by its sha256, with the credentials that the index itself has."""
    found: dict[str, str] = {}
    with loopback_index.serve() as index:
        index.prefetch(sorted({each.package for each in wanted}))
        for each in wanted:
            there = {file.sha256: file.url for file in index.files(each.package)}
            if each.sha256 not in there:
                raise NetworkError(
                    f"{addresses.host(index.source)} does not have {each.filename} with the locked sha256",
                    "name an index that has it (UV_DEFAULT_INDEX or PIP_INDEX_URL)",
                )
            found[each.sha256] = there[each.sha256]
    return found


def _fetch(wanted: Wanted, url: str) -> None:
    path = place(wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = files.draft_of(path)
    try:
        download.fetch(url, draft, wanted.sha256)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _applies(marker: str, python: str) -> bool:
    """Whether a pin is for this Python on Linux x86-64."""
    from packaging.markers import Marker

    about = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    about |= {"platform_system": "Linux", "platform_machine": "x86_64", "platform_python_implementation": "CPython"}
    return not marker or Marker(marker).evaluate({**about, "implementation_name": "cpython", "os_name": "posix"})
