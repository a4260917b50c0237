"""Is this prefix what its lock says? Every installed file against the hash its package recorded, nothing more, nothing less.

The chain: the lock names versions and artefact hashes; the receipt, written when those were installed, names the sha256
of every RECORD; a RECORD names the sha256 of every file of its package, conda-meta does the same for the conda layer, and
the receipt itself for what belongs to neither. A patched file counts with the hash that the lock gives for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verlock import console, errors
from verlock.env import installed
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import Chosen

# Worst first: the exit code of `verlock verify` is that of the first kind that was found.
KINDS: dict[str, type[errors.VerlockError]] = {
    "receipt stale": errors.ReceiptStale,
    "package missing": errors.PackageMissing,
    "package changed": errors.PackageChanged,
    "package added": errors.PackageAdded,
    "patch undone": errors.PatchUndone,
    "file changed": errors.FileChanged,
    "file missing": errors.FileMissing,
    "file added": errors.FileAdded,
}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Damage:
    """One difference between a prefix and its lock."""

    kind: str
    package: str
    path: str = ""
    wanted: str = ""
    got: str = ""

    def __str__(self) -> str:
        text = f"{self.kind}: {self.path or self.package}"
        if self.path and self.package:
            text += f" ({self.package})"
        if self.wanted or self.got:
            text += f": wanted {self.wanted or 'nothing'}, got {self.got or 'nothing'}"
        return text


def inspect(chosen: Chosen, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """All differences between a prefix and its lock, worst kind first.

    Args:
        chosen: which environment.
        progress: called with (bytes hashed, bytes in all) from time to time.

    Raises:
        NotSealed: there is no usable receipt, so there is nothing to hold the prefix against.
    """
    prefix, site = chosen.prefix, chosen.site
    sealed = receipt.read(prefix)
    found: list[Damage] = []
    if sealed["digest"] != chosen.digest:
        found.append(
            Damage("receipt stale", "", wanted=f"digest {chosen.digest[:12]}", got=f"digest {sealed['digest'][:12]}")
        )
    found += _packages(sealed, site)
    found += _conda_packages(sealed, prefix)
    if sealed["digest"] == chosen.digest:
        found += _against_lock(chosen, sealed)
    expected, unreadable = installed.expectations(prefix, site, sealed)
    for path, reason in unreadable.items():
        dist = lockfiles.normalise(path.parent.name.partition("-")[0])
        owner = f"conda:{path.stem}" if path.suffix == ".json" else dist
        found.append(Damage("file changed", owner, _short(prefix, str(path)), got=reason))
    found += _files(prefix, expected, progress)
    found += _extra(site, prefix, expected)
    order = list(KINDS)
    return sorted(set(found), key=lambda item: (order.index(item.kind), item.package, item.path))


def run(chosen: Chosen, *, as_json: bool, strict: bool) -> int:
    """`verlock verify`: print the verdict. Returns 0 for a whole environment; raises the error of the worst damage.

    Raises:
        NotSealed, or one of `KINDS` (each with its own exit code); Incomplete under `strict`.
    """
    prefix = chosen.prefix
    chosen.valid()
    with console.step("verify", str(prefix)) as step:

        def progress(done: int, total: int) -> None:
            step.detail = f"{prefix}: {done / 1e9:.1f} of {total / 1e9:.1f} GB"

        damage = inspect(chosen, progress)
    sealed = receipt.read(prefix)
    if any(item.kind != "receipt stale" for item in damage):
        receipt.distrust(prefix)  # so that `create` looks closer, even where size and time tell nothing
    if as_json:
        report = {"prefix": str(prefix), **{key: sealed[key] for key in ("digest", "missing", "site_wheels")}}
        print(json.dumps({**report, "damage": [asdict(item) for item in damage]}, indent=1))
    raise_for(sealed["variant"], prefix, damage)
    for line in receipt.said(sealed["site_wheels"]):
        console.say(line)
    for package, reason in sealed["missing"].items():
        if strict:
            raise errors.Incomplete(
                f"{package} is not in {prefix}: {reason}",
                f"make it reachable, and run `nox -s env-{sealed['variant']}` again",
            )
        console.warn(f"incomplete: {package} is missing ({reason})")
    if sealed["editable"]:
        console.warn(f"editable: the files of {sealed['source']['checkout']} are yours and were not looked at")
    console.say(
        f"{chosen.name} is what its lock says: {len(sealed['packages'])} packages, digest {sealed['digest'][:12]}"
    )
    return 0


def raise_for(variant: str, prefix: Path, damage: list[Damage], most: int = 20) -> None:
    """Raise the error of the worst kind found, naming up to `most` differences; do nothing when there is none."""
    if not damage:
        return
    lines = [str(item) for item in damage[:most]]
    if len(damage) > most:
        lines.append(f"and {len(damage) - most} more (--json lists all)")
    raise KINDS[damage[0].kind](
        f"{prefix} is not what its lock says: {len(damage)} difference{'s' if len(damage) > 1 else ''}\n  "
        + "\n  ".join(lines),
        f"`nox -s env-{variant}` puts it right",
    )


def _packages(sealed: dict[str, Any], site: Path) -> list[Damage]:
    """Installed packages against the receipt."""
    here = installed.packages(site)
    found = []
    for name, entry in sealed["packages"].items():
        if name not in here:
            found.append(Damage("package missing", name, wanted=entry["version"]))
        elif here[name][0] != entry["version"]:
            found.append(Damage("package changed", name, wanted=entry["version"], got=here[name][0]))
        elif (got := installed.record_sha256(here[name][1])) != entry["record"]:
            found.append(Damage("package changed", name, "RECORD", wanted=entry["record"], got=got))
    found += [Damage("package added", name, got=here[name][0]) for name in here if name not in sealed["packages"]]
    return found


def _conda_packages(sealed: dict[str, Any], prefix: Path) -> list[Damage]:
    here = {path.stem for path in installed.conda_records(prefix)}
    wanted = set(sealed["conda"])
    return [Damage("package missing", f"conda:{name}") for name in wanted - here] + [
        Damage("package added", f"conda:{name}") for name in here - wanted
    ]


def _against_lock(chosen: Chosen, sealed: dict[str, Any]) -> list[Damage]:
    """The receipt against the lock, so that neither can drift from the other unnoticed."""
    found = []
    for pin in chosen.pins:
        version = sealed["packages"].get(pin.name, {}).get("version")
        if version is None:
            found.append(Damage("package missing", pin.name, wanted=pin.version))
        elif version != pin.version:
            found.append(Damage("package changed", pin.name, wanted=pin.version, got=version))
    return found


def _files(
    prefix: Path, expected: dict[str, installed.Expected], progress: Callable[[int, int], None] | None
) -> list[Damage]:
    """Hash everything, in as many processes as there are cores."""
    found: list[Damage] = []
    sizes: list[tuple[int, str]] = []
    for path, want in expected.items():
        if want.link:
            got = os.readlink(path) if os.path.islink(path) else ""  # noqa: PTH114, PTH115
            if got != want.link:
                kind = "file changed" if got else "file missing"
                found.append(Damage(kind, want.package, _short(prefix, path), want.link, got))
            continue
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            kind = "patch undone" if want.patch else "file missing"
            found.append(Damage(kind, want.package, _short(prefix, path)))
            continue
        if not stat.S_ISREG(status.st_mode) and not (stat.S_ISDIR(status.st_mode) and not want.sha256):
            kind = "patch undone" if want.patch else "file changed"
            found.append(Damage(kind, want.package, _short(prefix, path), want.sha256, "no regular file"))
        elif want.sha256:
            sizes.append((status.st_size, path))
    total = sum(size for size, _ in sizes)
    done = 0
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores) as pool:
        for hashed, answers in pool.map(_hash_all, _shares(sizes, cores)):
            done += hashed
            if progress:
                progress(done, total)
            for path, got in answers.items():
                want = expected[path]
                if got != want.sha256:
                    kind = "patch undone" if want.patch else "file changed"
                    package = f"{want.package}, {want.patch}" if want.patch else want.package
                    found.append(Damage(kind, package, _short(prefix, path), want.sha256, got))
    return found


def _shares(sizes: list[tuple[int, str]], cores: int) -> Iterable[list[str]]:
    """Shares of about equal work, the largest files first so that no core is left with one at the end."""
    target = max(sum(size + 20_000 for size, _ in sizes) // (cores * 24), 1)  # opening a file costs as much as 20 kB
    share: list[str] = []
    weight = 0
    for size, path in sorted(sizes, reverse=True):
        share.append(path)
        weight += size + 20_000
        if weight >= target:
            yield share
            share, weight = [], 0
    if share:
        yield share


def _hash_all(paths: list[str]) -> tuple[int, dict[str, str]]:
    """(bytes read, path -> hex sha256); an unreadable file gives its error in place of the hash."""
    answers = {}
    count = 0
    buffer = bytearray(_BLOCK)
    view = memoryview(buffer)
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            answers[path] = error.strerror or str(error)
            continue
        total = hashlib.sha256()
        try:
            with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123
                while n := file.readinto(view):
                    total.update(view[:n])
                    count += n
            answers[path] = total.hexdigest()
        except OSError as error:
            answers[path] = error.strerror or str(error)
    return count, answers


def _extra(site: Path, prefix: Path, expected: dict[str, installed.Expected]) -> list[Damage]:
    """Files in site-packages that belong to nobody."""
    found = []
    folders = [str(site)] if site.is_dir() else []
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != "__pycache__":
                        folders.append(entry.path)
                elif entry.path not in expected and not entry.name.endswith(".pyc"):
                    found.append(Damage("file added", "", _short(prefix, entry.path)))
    return found


def _short(prefix: Path, path: str) -> str:
    return path.removeprefix(f"{prefix}/")
