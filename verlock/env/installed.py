"""What is installed in a prefix, and what each of its files has to be: from RECORDs, conda-meta and the receipt."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from verlock.system import files
from verlock.variant import lockfiles, record


class Expected(NamedTuple):
    """What one file must be: a hex sha256, or the target of a link; neither where it only has to be there."""

    package: str
    sha256: str = ""
    link: str = ""
    patch: str = ""


def packages(site: Path) -> dict[str, tuple[str, Path]]:
    """Installed packages: normalised name -> (version, folder of its metadata); nothing where there is no `site`."""
    found: dict[str, tuple[str, Path]] = {}
    if not site.is_dir():
        return found
    with os.scandir(site) as entries:
        for entry in entries:
            if entry.name.endswith(".dist-info"):
                name, _, version = entry.name.removesuffix(".dist-info").partition("-")
                found[lockfiles.normalise(name)] = (version, Path(entry.path))
    return found


@dataclass(frozen=True)
class Recorded:
    """An installed package as its RECORD lists it: read once, and used for everything that asks about its files."""

    version: str
    folder: Path  # of its metadata
    sha256: str  # of the RECORD; empty where there is none
    files: tuple[tuple[str, str], ...]  # absolute path, and hex sha256 where the RECORD has one
    unreadable: str = ""  # why there are no files


def recorded(site: Path, only: Collection[str] | None = None) -> dict[str, Recorded]:
    """Installed packages, or some of them, sorted by normalised name, with what their RECORDs list."""
    return {
        name: _read(site, version, folder)
        for name, (version, folder) in sorted(packages(site).items())
        if only is None or name in only
    }


def _read(site: Path, version: str, folder: Path) -> Recorded:
    sha256 = ""
    try:
        data = (folder / record.NAME).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        rows = record.rows(io.StringIO(data.decode("utf-8"), newline=""))
        listed = tuple((_absolute(site, row.path), row.sha256) for row in rows)
    except (OSError, ValueError, csv.Error) as error:
        return Recorded(version, folder, sha256, (), str(error))
    return Recorded(version, folder, sha256, listed)


def _absolute(site: Path, path: str) -> str:
    """Where a path of a RECORD leads to: most lie in site-packages, written as plainly as can be."""
    if path.startswith("/") or "./" in path or "//" in path:
        return os.path.normpath(os.path.join(site, path))  # noqa: PTH118
    return f"{site}/{path}"


def record_sha256(dist_info: Path) -> str:
    """The hex sha256 of a package's RECORD; empty where it has none."""
    return files.sha256_if_there(dist_info / record.NAME) or ""


def conda_records(prefix: Path) -> list[Path]:
    """The files of conda-meta/, one for each package of the conda layer."""
    return sorted((prefix / "conda-meta").glob("*-*-*.json"))


def expectations(
    prefix: Path, site: Path, sealed: dict[str, Any], listed: Mapping[str, Recorded] | None = None
) -> tuple[dict[str, Expected], dict[Path, str]]:
    """What every file must be, by its absolute path; and which list of files could not be read, with the reason.

    Args:
        prefix, site: the environment and its site-packages.
        sealed: its receipt.
        listed: what `recorded` gave; read here where it is None.
    """
    expected: dict[str, Expected] = {}
    unreadable: dict[Path, str] = {}
    for path in conda_records(prefix):
        try:
            _from_conda(prefix, path, expected)
        except (OSError, ValueError, KeyError, TypeError) as error:
            unreadable[path] = str(error)
    for relative, value in sealed["files"].items():
        link = value.removeprefix("link:") if value.startswith("link:") else ""
        expected[str(prefix / relative)] = Expected("base", sha256="" if link else value, link=link)
    # the host's Python, which a prefix only links to; older receipts do not have it
    for where, sha256 in (sealed.get("base") or {}).get("interpreter", {}).items():
        expected[where] = Expected("base", sha256=sha256)
    # of wheels that bring empty folders; older receipts do not have them
    for relative, package in (sealed.get("folders") or {}).items():
        expected[str(prefix / relative)] = Expected(package)
    # of several packages that record one file the last by name wins, see overruled()
    for name, package in (recorded(site) if listed is None else listed).items():
        if f"{package.folder}/METADATA" in expected:
            continue  # the conda layer's: its RECORD is of the build machine, conda-meta is of this prefix
        if package.unreadable:
            unreadable[package.folder / record.NAME] = package.unreadable
        for where, sha256 in package.files:
            if sha256:
                expected[where] = Expected(name, sha256=sha256)
            else:
                expected.setdefault(where, Expected(name))  # RECORD itself: the receipt has its hash
    for patch in sealed["patches"]:
        for touched in patch["touches"]:
            expected[str(site / touched["path"])] = Expected(
                patch["package"], sha256=touched["after"], patch=patch["file"]
            )
    return expected, unreadable


def empty_folders(site: Path, walked: Iterable[tuple[str, list[os.DirEntry[str]]]]) -> list[str]:
    """Folders beside and in `site` that Python imports although no file is in them, at any depth.

    `walked` is what `receipt.walk` met, from there or from above.
    """
    library = f"{site.parent}/"
    there = []
    filled: set[str] = set()
    for folder, entries in walked:
        if "/__pycache__" in folder:
            continue
        there.append(folder)
        while entries and folder and folder not in filled:
            filled.add(folder)
            folder = folder.rpartition("/")[0]  # noqa: PLW2901
    return [
        folder
        for folder in there
        if folder.startswith(library)
        and folder not in filled
        and all(name.isidentifier() for name in folder.removeprefix(library).removeprefix("site-packages/").split("/"))
    ]


def folders_of_wheels(
    site: Path, walked: Iterable[tuple[str, list[os.DirEntry[str]]]], listed: Mapping[str, Recorded]
) -> dict[str, str]:
    """The empty folders that wheels brought into packages of theirs, which no RECORD lists: absolute path -> package.

    To be asked right after the wheels were installed: it cannot tell what a wheel brought from what came later.
    """
    around = {folder: folder.rpartition("/")[0] for folder in empty_folders(site, walked)}
    owners: dict[str, str] = {}
    places = tuple({f"{each}/" for each in around.values() if each != str(site)})
    for name, package in listed.items():
        for where, _ in package.files if places else ():
            if where.startswith(places):
                for each in places:
                    if where.startswith(each):
                        owners.setdefault(each, name)
    return {folder: owners[f"{each}/"] for folder, each in around.items() if f"{each}/" in owners}


def overruled(site: Path, listed: Mapping[str, Recorded] | None = None) -> set[str]:
    """Packages whose file another package has overwritten, though they come later in the alphabet.

    fastapi and fastapi-cli both bring `bin/fastapi`, and which of the two is there after an install is chance. So that all
    environments of a lock are alike, the last by name wins; these must be installed once more.
    """
    packages = recorded(site) if listed is None else listed
    first: dict[str, str] = {}
    disputed = {
        where
        for package in packages.values()
        for where, sha256 in package.files
        if sha256 and first.setdefault(where, sha256) != sha256
    }
    claims: dict[str, dict[str, str]] = {where: {} for where in disputed}
    for name, package in packages.items() if disputed else ():
        for where, sha256 in package.files:
            if sha256 and where in disputed:
                claims[where][name] = sha256
    lost = set()
    for where, owners in claims.items():
        winner = max(owners)
        if files.sha256_if_there(Path(where)) != owners[winner]:
            lost.add(winner)
    return lost


def _from_conda(prefix: Path, path: Path, expected: dict[str, Expected]) -> None:
    meta = json.loads(path.read_text(encoding="utf-8"))
    package = f"conda:{meta['name']}"
    for item in meta["paths_data"]["paths"]:
        where = f"{prefix}/{item['_path']}"
        if where.endswith(".pyc"):
            continue
        # softlinks have the hash of what they lead to, which has an entry of its own
        value = item.get("sha256_in_prefix") or item.get("sha256") or ""
        expected[where] = Expected(package, sha256="" if item.get("path_type") == "softlink" else value)
    expected[str(path)] = Expected(package)
