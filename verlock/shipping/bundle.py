"""`verlock bundle`: everything that some environments are made of, in one folder, for where there is no network.

A file is written under another name (`.part`) and all are renamed at the end, the manifest last: a bundle that was there before
stays whole until then, and a run that was cut off goes on with what is finished. The same inputs give the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from verlock import console, paths
from verlock.env import hashing, python_choice
from verlock.errors import (
    BundleAltered,
    BundleExtra,
    BundleMissing,
    BundleRefused,
    VerlockError,
)
from verlock.shipping import bundle_contents, starter, trees, wheel_store
from verlock.shipping.bundle_contents import Contents, Item, Options
from verlock.system import files
from verlock.variant import manifest
from verlock.variant.chosen import Chosen

_DRAFT = ".part"
_BLOCK = 1 << 20  # bytes
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_SMALLEST = 1 << 20  # bytes of a part
KINDS: dict[str, type[VerlockError]] = {"missing": BundleMissing, "altered": BundleAltered, "extra": BundleExtra}


def run(variants: Sequence[str], python: str | None, to: Path, options: Options, part_size: int = 0) -> int:
    """Make a bundle of some variants in the folder `to`, in parts of `part_size` bytes where that is not 0. Returns 0.

    Raises:
        BundleRefused: the folder holds something else; or as `bundle_contents.collect`, with the other errors of that.
        DiskTooSmall: what was finished is kept.
    """
    wanted = [python_choice.to_make(name, python, options.base).valid() for name in dict.fromkeys(variants)]
    to = to.absolute()
    _ours(to)
    to.mkdir(parents=True, exist_ok=True)
    place = paths.cache_dir() / "bundle-scratch"
    place.mkdir(parents=True, exist_ok=True)
    lock = place / f"{hashlib.sha256(str(to).encode()).hexdigest()[:16]}.lock"
    with files.alone(lock, str(to)), _scratch(place) as scratch:
        contents = bundle_contents.collect(wanted, options, scratch)
        with console.step("bundle", str(to)) as step:
            listed = _in_parts(contents, to, part_size) if part_size else _in_files(contents, to, step)
            _finish(to, manifest.PARTS if part_size else manifest.NAME, listed)
            step.detail = f"{to}: {_size(listed):.2f} GB in {len(listed['files'])} files"
    _report(to, wanted, listed)
    return 0


@contextlib.contextmanager
def _scratch(place: Path) -> Iterator[Path]:
    files.clear_drafts(place)
    with tempfile.TemporaryDirectory(dir=place, prefix=".bundle-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _report(to: Path, wanted: Sequence[Chosen], listed: dict[str, Any]) -> None:
    names = ", ".join(f"{chosen.name} (Python {chosen.python})" for chosen in wanted)
    console.say(f"{names}: {to}, {_size(listed):.2f} GB")
    console.say(
        f"  the wheel store {wheel_store.root()} takes {wheel_store.size() / 1e9:.2f} GB; "
        "`bundle --prune` drops from it what no lock names"
    )
    if "variants" not in listed:
        console.say(f"  copy it where it is needed, then {to.name}/verlock join --to FOLDER")
    else:
        console.say(f"  copy it where it is needed, then {to.name}/verlock env {wanted[0].name}")


def _size(listed: dict[str, Any]) -> float:
    return float(sum(each["size"] for each in listed["files"])) / 1e9


def verify(bundle: Path) -> int:
    """Read every byte of a bundle and compare it with its manifest. Returns 0; raises the error of the worst difference.

    Raises BundleMissing, BundleAltered, BundleExtra (each names all differences), or BundleRefused where there is no manifest.
    """
    try:
        with console.step("verify", str(bundle)):
            wrong = starter.differences(bundle)
    except starter.Refused as error:
        raise BundleRefused(str(error), "make the bundle again, or copy it again") from None
    if wrong:
        lines = "\n  ".join(f"{kind}: {path}" for kind, path in wrong)
        raise KINDS[wrong[0][0]](
            f"{bundle} is not what its manifest says: {len(wrong)} difference{'s' if len(wrong) > 1 else ''}\n  {lines}",
            "make the bundle again in the same folder: what is whole is kept; or copy these files again",
        )
    console.say(f"{bundle} is what its manifest says")
    return 0


def prune() -> int:
    """Drop from the wheel store what no lock of this clone names, and say what that freed. Returns 0."""
    freed = wheel_store.prune()
    console.say(f"{freed / 1e9:.2f} GB freed; {wheel_store.root()} takes {wheel_store.size() / 1e9:.2f} GB")
    return 0


def bytes_of(text: str) -> int:
    """A size such as 4GiB, 700MB or 4096 in bytes. Raises ValueError."""
    found = re.fullmatch(r"(\d+) ?([KMG]I?|)B?", text.strip().upper())
    if not found or (size := int(found[1]) * _UNITS[found[2]]) < _SMALLEST:
        raise ValueError(f"a size of 1MiB or more, such as 4GiB or 700MB, not {text!r}")
    return size


# writing ----------------------------------------------------------------------------------------------


def _listed(folder: Path) -> dict[str, Any]:
    """What the bundle that is in a folder, or begun there, is made of; no files where there is none."""
    for name in (manifest.PARTS, manifest.NAME):
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return found
    return {"files": []}


def _ours(to: Path) -> None:
    """Raises BundleRefused where a folder holds something that is neither a bundle nor the beginning of one."""
    names = [manifest.NAME, manifest.PARTS, *(f"{name}{_DRAFT}" for name in (manifest.NAME, manifest.PARTS))]
    if to.is_dir() and any(to.iterdir()) and not any((to / name).exists() for name in names):
        raise BundleRefused(f"{to} holds other files than a bundle's", "name a folder that is empty, or not there")
    if to.exists() and not to.is_dir():
        raise BundleRefused(f"{to} is a file", "name a folder that is empty, or not there")


def _in_files(contents: Contents, to: Path, step: console.Step) -> dict[str, Any]:
    """Have every file in the folder, whole, those that are new under their `.part` name. Returns the manifest."""
    content = contents.manifest()
    files.write_whole(to / f"{manifest.NAME}{_DRAFT}", manifest.text(content))  # says that this folder is a bundle's
    missing = _not_there(contents.items, to)
    total, done = sum(each.size for each in missing), 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        waiting = pool.map(lambda item: _place(item, to / f"{item.path}{_DRAFT}"), missing)
        for item, _ in zip(missing, waiting, strict=True):
            done += item.size
            step.detail = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB written"
    return content


def _not_there(items: Mapping[str, Item], to: Path) -> list[Item]:
    """The items that the folder does not have yet, be it under their own name or as a finished `.part`; the largest first."""
    there = {}
    for item in items.values():
        for path in (to / item.path, to / f"{item.path}{_DRAFT}"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size == item.size:
                there[str(path)] = item
    found = set()
    for _, answers in hashing.sha256_of_all([(item.size, path) for path, item in there.items()]):
        found |= {there[path].path for path, got in answers.items() if got == there[path].sha256}
    return sorted((item for item in items.values() if item.path not in found), key=lambda item: (-item.size, item.path))


def _place(item: Item, target: Path) -> None:
    """Copy a file, whose bytes were hashed when it was collected. `verify` reads again what the disk kept of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(item.source, target)
    target.chmod(0o755 if item.path == bundle_contents.STARTER else 0o644)


def _finish(to: Path, name: str, listed: dict[str, Any]) -> None:
    """Rename what is finished into place, the manifest last; then delete what an older bundle had besides."""
    wanted = {each["path"] for each in listed["files"]}
    old = {each["path"] for each in _listed(to)["files"]}
    for path in sorted(wanted):
        draft = to / f"{path}{_DRAFT}"
        if draft.exists():
            draft.replace(to / path)
    for path in old - wanted:
        (to / path).unlink(missing_ok=True)
    (to / f"{name}{_DRAFT}").replace(to / name)
    for other in {manifest.NAME, manifest.PARTS} - {name}:
        (to / other).unlink(missing_ok=True)
    for left in to.rglob(f"*{_DRAFT}"):
        left.unlink()
    for folder in sorted((path for path in to.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            folder.rmdir()


# in parts ---------------------------------------------------------------------------------------------


class _Parts:
    """A stream that is cut into files of `size` bytes, each hashed: `bundle.tar.000` and so on, as `.part` files."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._out: IO[bytes] | None = None
        self._total = hashlib.sha256()
        self._left = 0
        self.listed: list[dict[str, Any]] = []

    def write(self, data: bytes) -> int:
        """Take some bytes."""
        view = memoryview(data)
        while view:
            if self._out is None:
                self._out = (self._folder / f"bundle.tar.{len(self.listed):03}{_DRAFT}").open("wb")
                self._total, self._left = hashlib.sha256(), self._size
            piece = view[: self._left]
            self._out.write(piece)
            self._total.update(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
            if not self._left:
                self.close()
        return len(data)

    def close(self) -> None:
        """End the part that is being written."""
        if self._out is not None:
            size = self._out.tell()
            self._out.close()
            self._out = None
            name = f"bundle.tar.{len(self.listed):03}"
            self.listed.append({"path": name, "size": size, "sha256": self._total.hexdigest(), "for": []})


def _in_parts(contents: Contents, to: Path, size: int) -> dict[str, Any]:
    """Write the bundle as one archive that is cut into parts, with the starter, which joins them. Returns what it is made of.

    A run that was cut off writes the parts again; what it fetched is in the wheel store.
    """
    (to / f"{manifest.PARTS}{_DRAFT}").touch()
    parts = _Parts(to, size)
    with tarfile.open(fileobj=parts, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK) as archive:  # type: ignore[call-overload]
        trees.add_text(archive, manifest.NAME, manifest.text(contents.manifest()))
        for item in sorted(contents.items.values(), key=lambda item: item.path):
            trees.add(archive, item.source, item.path)
    parts.close()
    own = contents.items[bundle_contents.STARTER]
    shutil.copyfile(own.source, to / f"{own.path}{_DRAFT}")
    (to / f"{own.path}{_DRAFT}").chmod(0o755)
    listed = [*parts.listed, {"path": own.path, "size": own.size, "sha256": own.sha256, "for": []}]
    content = {"schema": manifest.SCHEMA, "files": listed}
    files.write_whole(to / f"{manifest.PARTS}{_DRAFT}", json.dumps(content, indent=1, sort_keys=True) + "\n")
    return content
