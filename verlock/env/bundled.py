"""Taking an environment's files out of a bundle: what `create --from DIR` sets up before the walk, which itself stays as it is.

Wheels, artefacts and conda packages are read where they lie. Two things are unpacked: a git source into verlock's cache, and an
interpreter beside the environments, since environments link to it for as long as they live.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verlock import console, paths
from verlock.errors import BundleRefused, IntegrityError, NoBase
from verlock.system import files, host_python
from verlock.variant import manifest, record
from verlock.variant.chosen import Chosen, choose


@dataclass(frozen=True)
class Taken:
    """What a bundle decides of an environment: its Python, its base, and the site wheels that were packed with it."""

    python: str
    base: str
    site_wheels: dict[str, Path]


def use(bundle: Path, variant: str, python: str | None, *, offline: bool) -> Taken:
    """From now on this process takes files from a bundle first; and from nowhere else, where `offline` says so.

    Args:
        bundle: its folder.
        variant, python: which environment; the Python that the bundle has first where none is named.
        offline: ask no host for anything.

    Raises:
        BundleRefused: it does not have this environment, or was made from another lock.
        IntegrityError, NoBase: an archive in it is damaged, or its interpreter does not run here.
        UnknownVariant, LockError, RecipeError.
    """
    bundle = bundle.absolute()
    content = manifest.read(bundle)
    there: dict[str, Any] = content["variants"].get(variant, {})
    named = python or next(iter(_in_order(variant, there)), None)
    if named not in there:
        listed = [f"{name} for Python {', '.join(each)}" for name, each in sorted(content["variants"].items())]
        raise BundleRefused(
            f"{bundle} does not have {variant}{f' for Python {python}' if python else ''}",
            f"it has {'; '.join(listed)}",
        )
    chosen, entry = choose(variant, named), there[named]
    if entry["digest"] != chosen.digest:
        raise BundleRefused(
            f"{bundle} was made from another lock of {variant}\n"
            f"  wanted  digest {chosen.digest[:12]}\n  got     digest {entry['digest'][:12]}",
            f"check out the commit that it was made at, {content['commit'][:12]}, or make the bundle again",
        )
    os.environ["VERLOCK_BUNDLE"] = str(bundle)
    if offline:
        os.environ["VERLOCK_OFFLINE"] = "1"
    if entry["source"]:
        _source(bundle, entry["source"], content)
    if entry["python"]:
        os.environ[host_python.VARIABLE] = str(_interpreter(bundle, entry["python"], chosen))
    for package in entry["missing"]:
        console.warn(f"{package} is not in the bundle")
    return Taken(named, entry["base"], {package: bundle / path for package, path in entry["site_wheels"].items()})


def as_from_an_index(site: Path) -> None:
    """Make the packages in a site-packages what they are when they come from an index.

    Of a wheel in a folder uv notes the time of the file (`uv_cache.json`), which tells nothing to whoever uses the environment,
    and would make each one different. What was named by its path (`direct_url.json`) is so everywhere, and stays.
    """
    for note in site.glob("*.dist-info/uv_cache.json"):
        if not (note.parent / "direct_url.json").exists():
            listing = note.parent / record.NAME
            rows = listing.read_text(encoding="utf-8").splitlines(keepends=True)
            own = f"{note.parent.name}/{note.name},"
            files.write_whole(listing, "".join(row for row in rows if not row.startswith(own)))
            note.unlink()


def _in_order(variant: str, there: dict[str, Any]) -> list[str]:
    """The Pythons of a bundle's variant in the order of its recipe."""
    return [each.python for each in choose(variant).pythons() if each.python in there]


def _source(bundle: Path, name: str, content: dict[str, Any]) -> None:
    """Put the store of a git source into the cache; whether it is whole is asked of git, as for every store."""
    store = paths.cache_dir() / "sources" / f"{Path(name).stem}.git"
    if store.exists():
        return
    wanted = next(each["sha256"] for each in content["files"] if each["path"] == name)
    _unpack(_whole(bundle / name, wanted), store)


def _interpreter(bundle: Path, entry: dict[str, Any], chosen: Chosen) -> Path:
    """The program of the bundle's interpreter, unpacked beside the environments. Raises NoBase where it does not run here."""
    place = paths.envs_dir() / ".python" / f"cpython-{entry['version']}-{entry['sha256'][:12]}"
    program = place / "bin" / f"python{chosen.python}"
    if any(files.sha256_if_there(place / name) != sha256 for name, sha256 in entry["programs"].items()):
        with console.step("python", f"CPython {entry['version']} out of the bundle"):
            _unpack(_whole(bundle / entry["file"], entry["sha256"]), place)
    found = host_python.probe(program)
    if found is None or (found.libpython and not found.libpython.is_relative_to(place)):
        raise NoBase(
            f"the bundle's CPython {entry['version']} does not run here ({program})",
            "most often a library of the system it was made on is missing here (libssl, libffi): have that, or a bundle with a "
            "CPython that needs none (`uv python install`), or one with the conda base",
        )
    return program


def _whole(archive: Path, wanted: str) -> Path:
    got = files.sha256_if_there(archive)
    if got != wanted:
        raise IntegrityError.of(str(archive), wanted, got or "nothing", "copy the bundle here again")
    return archive


def _unpack(archive: Path, place: Path) -> None:
    """Unpack an archive of one folder to `place`, whole or not at all; what is there is replaced. What it holds was hashed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = files.draft_of(place)
    with files.alone(place.with_name(f".{place.name}.lock"), str(place)):
        _replaced(archive, draft, place)


def _replaced(archive: Path, draft: Path, place: Path) -> None:
    try:
        with tarfile.open(archive) as file:
            # hashed, but from Python 3.14 on no link leads out of an archive unless that is said
            file.extraction_filter = getattr(tarfile, "tar_filter", None)
            file.extractall(draft)
        (inner,) = draft.iterdir()
        files.empty_trash(place)
        if place.exists():
            files.discard(place)
        inner.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
