"""The receipt, `verlock.json` in a prefix: what was really installed, written last. No receipt, no environment.

It binds the prefix to a digest and holds what `verify` starts from: for every package the sha256 of its RECORD, which in
turn holds a sha256 of every file. The fingerprint (paths, sizes and times of all files) tells in a fraction of a second
that nothing was touched since; when it differs, the files themselves decide.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verlock import straight
from verlock.errors import NotSealed
from verlock.system import files
from verlock.variant.shape import EACH, fits

NAME = straight.RECEIPT
SCHEMA = 1
SHAPE = {
    **dict.fromkeys(("variant", "python", "digest", "prefix", "fingerprint"), str),
    "base": {"kind": str, "version": str},
    "conda": [str],
    "packages": {EACH: {"version": str}},
    "missing": {EACH: str},
    "site_wheels": (None, {EACH: dict.fromkeys(("file", "version", "sha256"), str)}),
    "overrides": (None, [dict.fromkeys(("requirer", "requirement", "reason", "link"), str)]),
    "patches": [{"file": str, "touches": [dict.fromkeys(("path", "before", "after"), str)]}],
    "source": (None, dict),
    # False, or package -> its checkout; `differs` is what its user had changed when the environment was made
    "editable": (bool, {EACH: {**dict.fromkeys(("checkout", "commit", "tree"), str), "differs": {EACH: str}}}),
    "files": {EACH: str},
    "folders": (None, {EACH: str}),
    "moved": (None, [dict.fromkeys(("from", "to", "when"), str)]),
}


def read(prefix: Path) -> dict[str, Any]:
    """The receipt of the environment at `prefix`.

    Raises:
        NotSealed: there is none, it is not whole, or the environment was moved after it was made.
    """
    try:
        receipt: dict[str, Any] = json.loads((prefix / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotSealed(
            f"{prefix} is not a finished environment", f"make it with `nox -s env-{_which(prefix)}`"
        ) from None
    if not fits(receipt, SHAPE) or receipt.get("schema") != SCHEMA or receipt["editable"] is True:
        raise NotSealed(f"{prefix} was made by another verlock", f"make it again with `nox -s env-{_which(prefix)}`")
    if os.path.realpath(receipt["prefix"]) != os.path.realpath(prefix):
        raise NotSealed(
            f"{prefix} was moved: it was made at {receipt['prefix']}, and its scripts point there",
            "make it again where it is to be (VERLOCK_ENVS names the folder)",
        )
    receipt["site_wheels"] = receipt.get("site_wheels") or {}  # a receipt of before there were any
    receipt["editable"] = receipt["editable"] or {}
    return receipt


def _which(prefix: Path) -> str:
    """What follows `nox -s env-` to make the environment at a prefix, whose name is `v1`, or `v1-py312` for another Python."""
    variant, _, digits = prefix.name.partition("-py")
    return variant + (f" -- --python {digits[0]}.{digits[1:]}" if digits else "")


def raw(prefix: Path) -> dict[str, Any]:
    """What stands in a receipt, whichever verlock wrote it and wherever it is; empty where there is none that can be read."""
    found = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((prefix / NAME).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def editable(sealed: Mapping[str, Any]) -> tuple[str, ...]:
    """The packages that a receipt, as `raw` gives it, says to be editable; an older one says so of the recipe's source alone."""
    found = sealed.get("editable")
    if found is True:
        return (str(sealed["source"]["package"]),)
    return tuple(sorted(found)) if isinstance(found, dict) else ()


def write(prefix: Path, receipt: dict[str, Any]) -> None:
    """Put the receipt in place in one step: it is whole or it is not there."""
    files.write_whole(prefix / NAME, json.dumps(receipt, indent=1, sort_keys=True), durable=True)


@dataclass(frozen=True)
class Ran:
    """What of an environment its digest leaves open: its base, which artefacts are missing, and which are the user's own.

    A certificate vouches for one such combination, and so does a proof that everything imports.
    """

    base: str
    interpreter: str
    missing: tuple[str, ...]
    site_wheels: tuple[str, ...] = ()  # each as "package sha256"
    editable: tuple[str, ...] = field(default=(), repr=False)  # packages; of such a one nothing is proven for the next

    @classmethod
    def of(
        cls,
        base: Mapping[str, Any],
        missing: Iterable[str],
        site_wheels: Mapping[str, Mapping[str, str]] | None = None,
        editable: Iterable[str] = (),
    ) -> Ran:
        """Of the entries `base` (kind, version), `missing`, `site_wheels` and `editable` of a receipt or certificate."""
        own = sorted(f"{package} {entry['sha256']}" for package, entry in (site_wheels or {}).items())
        return cls(str(base["kind"]), str(base["version"]), tuple(sorted(missing)), tuple(own), tuple(sorted(editable)))


def said(site_wheels: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A receipt's site wheels for people, one line each: package, version, begin of the sha256, file."""
    return [
        f"site wheel: {package} {entry['version']}, {entry['sha256'][:8]}, {entry['file']}"
        for package, entry in sorted(site_wheels.items())
    ]


def distrust(prefix: Path) -> None:
    """Take the fingerprint out of the receipt, where that may be written: the next `create` hashes every file."""
    with contextlib.suppress(OSError):
        write(prefix, {**read(prefix), "fingerprint": ""})


def walk(prefix: Path, *, byte_code: bool = False) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """Each folder of `prefix` with its files and links, in an order that is always the same.

    Args:
        prefix: where to begin.
        byte_code: go into `__pycache__` too.
    """
    folders = [str(prefix)]
    while folders:
        found = []
        folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    found.append(entry)
                elif byte_code or entry.name != "__pycache__":
                    folders.append(entry.path)
        folders.sort()  # scandir's order is the file system's; what is popped next must not depend on it
        yield folder, found


def fingerprint(prefix: Path, walked: Iterable[tuple[str, list[os.DirEntry[str]]]] | None = None) -> str:
    """A sha256 over path, size and modification time of every file in `prefix`.

    Byte code is left out, since running Python writes it; so are the receipt itself, and links count by their target.
    35,000 files take about 0.2 s; less where they were `walked` already.
    """
    total = hashlib.sha256()
    own = str(prefix / NAME)
    drafts = str(prefix / f".{NAME}.")
    for folder, entries in walk(prefix) if walked is None else walked:
        if "/__pycache__/" in f"{folder.removeprefix(str(prefix))}/":
            continue
        names = []
        for entry in entries:
            if entry.is_symlink():
                names.append(f"{entry.path}>{os.readlink(entry.path)}")  # noqa: PTH115 (Path objects cost too much here)
            elif not entry.name.endswith(".pyc") and entry.path != own and not entry.path.startswith(drafts):
                stat = entry.stat(follow_symlinks=False)
                names.append(f"{entry.path}:{stat.st_size}:{stat.st_mtime_ns}")
        names.sort()
        total.update("\n".join(names).encode("utf-8", "surrogateescape"))
    return total.hexdigest()
