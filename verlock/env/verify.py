"""Is this prefix what its lock says? Every installed file against the hash its package recorded, nothing more, nothing less.

The chain: the lock names versions and artefact hashes; the receipt, written when those were installed, names the sha256
of every RECORD; a RECORD names the sha256 of every file of its package, conda-meta does the same for the conda layer, and
the receipt itself for what belongs to neither. A patched file counts with the hash that the lock gives for it. Byte code has
to be what its source compiles to.

What cannot be seen from here, and so is not looked at: the system outside the prefix (its libraries and loader, the driver, and
under `base: host` the standard library with its byte code, of which only the interpreter's own file is hashed); the user's
own places that Python and shell read (`~/.local`, PYTHONPATH, LD_LIBRARY_PATH); files in `__pycache__` that are no byte code
of this Python (numba keeps its machine code there); what the .gitignore of an editable checkout names (of its other files it is
said which differ from the commit); and whoever can write verlock's cache and the receipt.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verlock import console, errors
from verlock.env import byte_code, hashing, installed, prefix_folder
from verlock.sources import editable
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


@dataclass(frozen=True)
class Findings:
    """What a look at all files of an environment found."""

    damage: list[Damage]  # worst kind first
    fingerprint: str  # of the files, as they were before the first was hashed


def inspect(chosen: Chosen, progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """All differences between a prefix and its lock, worst kind first.

    Args:
        chosen: which environment.
        progress: called with (bytes hashed, bytes in all) from time to time.

    Raises:
        NotSealed: there is no usable receipt, so there is nothing to hold the prefix against.
    """
    with hashing.Hashed() as hashed:
        return examine(chosen, receipt.read(chosen.prefix), installed.recorded(chosen.site), hashed, progress).damage


def examine(
    chosen: Chosen,
    sealed: dict[str, Any],
    listed: Mapping[str, installed.Recorded],
    hashed: hashing.Hashed,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """The same for a receipt that need not be written yet, RECORDs that were read already (`installed.recorded`), and files
    of which some may be hashed already."""
    prefix = chosen.prefix
    walked = list(receipt.walk(prefix, byte_code=True))
    there = {entry.path: entry for _, entries in walked for entry in entries}
    expected, unreadable = installed.expectations(prefix, chosen.site, sealed, listed)
    total = _begin(hashed, expected, there)
    fingerprint = receipt.fingerprint(prefix, walked)
    found: list[Damage] = []
    if sealed["digest"] != chosen.digest:
        found.append(
            Damage("receipt stale", "", wanted=f"digest {chosen.digest[:12]}", got=f"digest {sealed['digest'][:12]}")
        )
    else:
        found += _against_lock(chosen, sealed)
    found += _packages(sealed, listed)
    for package, entry in (sealed["editable"] or {}).items():
        if not Path(entry["checkout"]).is_dir():
            found.append(Damage("file missing", package, entry["checkout"], wanted="its checkout"))
    found += _conda_packages(sealed, prefix)
    for path, reason in unreadable.items():
        dist = lockfiles.normalise(path.parent.name.partition("-")[0])
        owner = f"conda:{path.stem}" if path.suffix == ".json" else dist
        found.append(Damage("file changed", owner, _short(prefix, str(path)), got=reason))
    compiled, strays = _unowned(chosen, walked, expected)
    found += strays
    found += _not_executable(prefix, expected)
    _wait(hashed, total, progress)
    hashes: dict[str, str] = {}
    sizes, wrong = _at_a_glance(prefix, expected, there, hashes, hashed)
    found += wrong
    found += _files(chosen, expected, sizes, hashes, [] if _of_python(found) else compiled)
    order = list(KINDS)
    return Findings(sorted(set(found), key=lambda item: (order.index(item.kind), item.package, item.path)), fingerprint)


def packages_of(damage: Iterable[Damage]) -> set[str]:
    """The packages to which damage belongs."""
    return {item.package.partition(",")[0] for item in damage if item.package}


def sharing(prefix: Path, damage: Iterable[Damage]) -> list[Path]:
    """Other finished environments in the folder of this one that have the same damaged file: both have it as a hardlink."""
    damaged = set()
    for item in damage:
        with contextlib.suppress(OSError):
            status = os.stat(prefix / item.path)  # noqa: PTH116
            if item.kind in ("file changed", "patch undone") and status.st_nlink > 1:
                damaged.add((status.st_dev, status.st_ino, item.path.partition("/site-packages/")[2] or item.path))
    found = []
    for other in sorted(path.parent for path in prefix.parent.glob(f"*/{receipt.NAME}")):
        roots = [other, *other.glob("lib/python3*/site-packages")]
        for device, number, path in damaged if other != prefix else ():
            with contextlib.suppress(OSError, errors.NotSealed):
                if any((device, number) == _identity(root / path) for root in roots if (root / path).exists()):
                    receipt.read(other)
                    found.append(other)
                    break
    return found


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


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
    edits = _edits(sealed)
    if as_json:
        report = {"prefix": str(prefix), **{key: sealed[key] for key in ("digest", "missing", "site_wheels")}}
        report["editable"] = edits
        print(json.dumps({**report, "damage": [asdict(item) for item in damage]}, indent=1))
    raise_for(sealed["variant"], prefix, damage)
    for line in receipt.said(sealed["site_wheels"]):
        console.say(line)
    for each in sealed.get("moved") or []:
        console.say(f"moved: from {each['from']}, on {each['when'][:10]}")
    for package, reason in sealed["missing"].items():
        if strict:
            raise errors.Incomplete(
                f"{package} is not in {prefix}: {reason}",
                f"make it reachable, and run `nox -s env-{sealed['variant']}` again",
            )
        console.warn(f"incomplete: {package} is missing ({reason})")
    if edits:
        for line in editable.said(sealed["editable"], edits):
            console.warn(line)
    console.say(
        f"{chosen.name} is what its lock says: {len(sealed['packages'])} packages, digest {sealed['digest'][:12]}"
    )
    return 0


def _edits(sealed: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What differs now in each editable checkout that is there: package -> path -> sha256. Raises CheckoutRefused."""
    there = {package: each for package, each in sealed["editable"].items() if Path(each["checkout"]).is_dir()}
    return {package: editable.differences(Path(each["checkout"]), each["commit"]) for package, each in there.items()}


def raise_for(variant: str, prefix: Path, damage: list[Damage], most: int = 20) -> None:
    """Raise the error of the worst kind found, naming up to `most` differences; do nothing when there is none."""
    if not damage:
        return
    lines = [str(item) for item in damage[:most]]
    if len(damage) > most:
        lines.append(f"and {len(damage) - most} more (--json lists all)")
    raise KINDS[damage[0].kind](
        f"{prefix} is not what its lock says: {len(damage)} difference{'s' if len(damage) > 1 else ''}\n  "
        + "\n  ".join([*lines, *(f"the same file is damaged in {other}" for other in sharing(prefix, damage))]),
        f"`nox -s env-{variant}` puts it right",
    )


def _packages(sealed: dict[str, Any], here: Mapping[str, installed.Recorded]) -> list[Damage]:
    """Installed packages against the receipt."""
    found = []
    for name, entry in sealed["packages"].items():
        if name not in here:
            found.append(Damage("package missing", name, wanted=entry["version"]))
        elif here[name].version != entry["version"]:
            found.append(Damage("package changed", name, wanted=entry["version"], got=here[name].version))
        elif here[name].sha256 != entry["record"]:
            found.append(Damage("package changed", name, "RECORD", wanted=entry["record"], got=here[name].sha256))
    found += [Damage("package added", name, got=here[name].version) for name in here if name not in sealed["packages"]]
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


def _begin(
    hashed: hashing.Hashed, expected: Mapping[str, installed.Expected], there: Mapping[str, os.DirEntry[str]]
) -> int:
    """Begin to read every file of which a hash is expected, beside what is looked at meanwhile; the bytes that are to be read."""
    files = []
    for path, entry in there.items():
        if (want := expected.get(path)) and want.sha256:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and not hashed.of(status):
                    files.append((status, path))
    hashed.begin(files)
    return sum(status.st_size for status, _ in files)


def _wait(hashed: hashing.Hashed, total: int, progress: Callable[[int, int], None] | None) -> None:
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        if progress:
            progress(done, total)

    hashed.wait(tell)


def _files(
    chosen: Chosen,
    expected: dict[str, installed.Expected],
    sizes: list[tuple[int, str]],
    hashes: dict[str, str],
    compiled: list[byte_code.Compiled],
) -> list[Damage]:
    """Hash everything that is not yet in `hashes`, on all cores; then compare the byte code that is there with its sources."""
    prefix = chosen.prefix
    found: list[Damage] = []
    for _, answers in hashing.sha256_of_all([*sizes, *((0, each.path) for each in compiled)]):
        hashes.update(answers)
    for path, got in list(hashes.items()):
        if (want := expected.get(path)) is None:
            continue  # byte code
        if got != want.sha256:
            kind = "patch undone" if want.patch else "file changed"
            package = f"{want.package}, {want.patch}" if want.patch else want.package
            found.append(Damage(kind, package, _short(prefix, path), want.sha256, got))
    if _of_python(found):
        return found
    sound = [each for each in compiled if hashes.get(each.source) == expected[each.source].sha256]
    for each in byte_code.forged(chosen, sound, hashes):
        owner = expected[each.source].package
        found.append(
            Damage("file changed", owner, _short(prefix, each.path), "the code of its source", "other byte code")
        )
    return found


def _of_python(found: list[Damage]) -> bool:
    """Is the interpreter itself damaged, a link to it or the host's? What such a one compiles proves nothing."""
    return any(item.path.startswith(("bin/python", "/")) for item in found)


def _at_a_glance(
    prefix: Path,
    expected: dict[str, installed.Expected],
    there: Mapping[str, os.DirEntry[str]],
    hashes: dict[str, str],
    hashed: hashing.Hashed,
) -> tuple[list[tuple[int, str]], list[Damage]]:
    """The files that must be read, with their sizes in bytes; and what is wrong without reading.

    Args:
        prefix, expected: where, and what every file must be.
        there: what a walk of the prefix met; it knows most sizes already.
        hashes: gets path -> hex sha256 of what was read already.
        hashed: what was.
    """
    sizes: list[tuple[int, str]] = []
    found: list[Damage] = []
    for path, want in expected.items():
        short = _short(prefix, path)
        if want.link:
            got = os.readlink(path) if os.path.islink(path) else ""  # noqa: PTH114, PTH115
            if got != want.link:
                found.append(Damage("file changed" if got else "file missing", want.package, short, want.link, got))
            continue
        entry = there.get(path)
        try:
            status = os.stat(path) if entry is None or entry.is_symlink() else entry.stat()  # noqa: PTH116
        except OSError:
            found.append(Damage("patch undone" if want.patch else "file missing", want.package, short))
            continue
        if not stat.S_ISREG(status.st_mode) and not (stat.S_ISDIR(status.st_mode) and not want.sha256):
            kind = "patch undone" if want.patch else "file changed"
            found.append(Damage(kind, want.package, short, want.sha256, "no regular file"))
        elif want.sha256:
            if known := hashed.of(status):
                hashes[path] = known
            else:
                sizes.append((status.st_size, path))
    return sizes, found


def _unowned(
    chosen: Chosen, walked: list[tuple[str, list[os.DirEntry[str]]]], expected: dict[str, installed.Expected]
) -> tuple[list[byte_code.Compiled], list[Damage]]:
    """The byte code that Python may run, and what belongs to nobody: files, and folders that import although they are empty.

    verlock's own files count as owned, so do lock files outside site-packages, and whatever is in `__pycache__`: Python reads
    nothing there but byte code of its own version. Byte code elsewhere runs where it has no source: it is a file like any other.
    """
    prefix = chosen.prefix
    own = {f"{prefix}/{name}" for name in (receipt.NAME, prefix_folder.MARKER)}
    compiled: list[byte_code.Compiled] = []
    found: list[Damage] = []
    for folder, entries in walked:
        if folder.endswith(f"/{byte_code.FOLDER}"):
            each_compiled = (byte_code.compiled(entry.path, chosen.python) for entry in entries)
            compiled += [each for each in each_compiled if each and each.source in expected]
            continue
        for entry in entries:
            path = entry.path
            if path in expected or path in own or path.startswith(f"{prefix}/.{receipt.NAME}."):
                continue
            if not path.endswith(".lock") or path.startswith(f"{chosen.site}/"):
                found.append(Damage("file added", "", _short(prefix, path)))
    stray = [folder for folder in installed.empty_folders(chosen.site, walked) if folder not in expected]
    found += [
        Damage("file added", "", f"{_short(prefix, folder)}/", got="an empty folder, which imports") for folder in stray
    ]
    return compiled, found


def _not_executable(prefix: Path, expected: dict[str, installed.Expected]) -> list[Damage]:
    """Programs in bin/ that cannot be started any more: scripts that name their interpreter, and compiled ones."""
    found = []
    for path, want in expected.items():
        if path.startswith(f"{prefix}/bin/") and not want.link:
            with contextlib.suppress(OSError):  # missing: said elsewhere
                if not os.stat(path).st_mode & stat.S_IXUSR:  # noqa: PTH116
                    with open(path, "rb") as file:  # noqa: PTH123
                        if file.read(4).startswith((b"#!", b"\x7fELF")):
                            found.append(
                                Damage(
                                    "file changed", want.package, _short(prefix, path), "executable", "not executable"
                                )
                            )
    return found


def _short(prefix: Path, path: str) -> str:
    return path.removeprefix(f"{prefix}/")
