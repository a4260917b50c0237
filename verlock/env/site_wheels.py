"""Site wheels: wheels of the user's own in the place of a recipe's artefacts, named by `--site-wheel` or VERLOCK_SITE_WHEELS.

A wheel is checked (name, version, tags) before anything is touched, and kept in the cache by its sha256, so that the environment
can be rebuilt without the user's path. The receipt, and whatever tells of the environment, says which wheels those are.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from packaging import metadata, tags, utils
from packaging.version import Version

from verlock.errors import RecipeError, SiteWheelRefused
from verlock.sources import wheel_store
from verlock.system import files
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import Chosen

VARIABLE = "VERLOCK_SITE_WHEELS"
NONE = "none"
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")
_GO_BACK = f"`--site-wheel {NONE}` goes back to the locked artefacts"


def asked(option: Sequence[str] | None, variable: str) -> dict[str, Path] | None:
    """What the user names: package -> file, empty for `none`, and None where nothing is named.

    Args:
        option: the values of `--site-wheel`, each `PACKAGE=FILE`; they win. None where there are none.
        variable: the value of VERLOCK_SITE_WHEELS, several separated by commas.

    Raises:
        SiteWheelRefused: one is not written so, or a package has two.
    """
    where = "--site-wheel" if option else VARIABLE
    given = option or [each.strip() for each in variable.split(",") if each.strip()]
    if not given:
        return None
    if list(given) == [NONE]:
        return {}
    form = f"write it as flash-attn=/folder/of/the.whl; or `{NONE}` alone, for the locked artefacts"
    found: dict[str, Path] = {}
    for each in given:
        name, _, file = each.partition("=")
        if "://" in each:  # an address may hold a password, so it is not shown
            raise SiteWheelRefused(f"{where} names an address, and a site wheel is a file on this machine", form)
        if not name.strip() or not file:
            raise SiteWheelRefused(f"{where}: {each!r} is not PACKAGE=FILE", form)
        package = lockfiles.normalise(name.strip())
        if package in found:
            raise SiteWheelRefused(f"{where} names two files for {package}", "name one")
        found[package] = Path(os.path.expanduser(file)).absolute()  # noqa: PTH111 (Path's own fails for an unknown user)
    return found


def keep(chosen: Chosen, given: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Check the files that the user named, all of them before the first is copied into the cache; returns the receipt's entries.

    Raises:
        RecipeError: the recipe names no such artefact.
        SiteWheelRefused: a file is not there, is no wheel, or has another name, version or tag.
    """
    for package, path in given.items():
        check(chosen, package, path)
    kept = {package: _kept(path) for package, path in given.items()}
    return {
        package: {"file": path.name, "version": _name_and_version(path)[1], "sha256": path.parent.name}
        for package, path in kept.items()
    }


def remembered(chosen: Chosen) -> dict[str, dict[str, str]]:
    """The receipt's entries of the site wheels that an environment has which is to be made again; each is in the cache.

    Where a run was killed, `prefix_folder.settle` has given back that environment before.

    Raises:
        RecipeError, SiteWheelRefused: one of them is gone from the cache, or fits no longer.
    """
    found: dict[str, dict[str, str]] = dict(receipt.raw(chosen.prefix).get("site_wheels") or {})
    for package, entry in found.items():
        path = wheel_store.cached(entry["file"], entry["sha256"])
        if path is None:
            raise SiteWheelRefused(
                f"{chosen.prefix} must be rebuilt, and verlock's cache no longer has its site wheel\n"
                f"  {package} {entry['version']}, {entry['file']}, sha256 {entry['sha256']}",
                f"name the file again with `--site-wheel {package}=FILE`; {_GO_BACK}",
            )
        check(chosen, package, path)
    return found


def check(chosen: Chosen, package: str, path: Path) -> None:
    """Can this file take the place of the artefact `package`? Raises RecipeError or SiteWheelRefused when not."""
    versions = {each.package: each.version for each in chosen.recipe.artefact}
    if package not in versions:
        raise RecipeError(
            f"{package} cannot be a site wheel of {chosen.name}: its recipe names no such artefact",
            f"it names: {', '.join(versions) or 'none'}; {_GO_BACK}",
        )
    got = _unfit(path, package, Version(versions[package]), chosen.python)
    if got:
        raise SiteWheelRefused(
            f"{path} cannot be the site wheel of {package}\n"
            f"  wanted  a wheel of {package} {versions[package]} for Python {chosen.python} on Linux x86-64\n"
            f"  got     {got}",
            f"name a wheel that fits; {_GO_BACK}",
        )


def _unfit(path: Path, package: str, version: Version, python: str) -> str:
    """What a file is instead of the wheel that is wanted; empty where it is that wheel."""
    if not path.exists():
        return "no such file"
    if not path.is_file():
        return "something that is no file"
    try:
        own_name, own_version, _, own_tags = utils.parse_wheel_filename(unquote(path.name))
        name, text = _name_and_version(path)
        inner = Version(text)
    except (ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        return f"no wheel: {error}"
    if (name, inner.public) != (package, version.public):
        return f"{name} {inner}"
    if (own_name, own_version.public) != (name, inner.public):
        return f"a file name that says {own_name} {own_version}, and metadata that says {name} {inner}"
    if own_tags.isdisjoint(_fitting_tags(python)):
        return f"a wheel for {', '.join(sorted(map(str, own_tags)))}"
    return ""


def _name_and_version(path: Path) -> tuple[str, str]:
    """Name (normalised) and version in a wheel's METADATA. Raises ValueError, KeyError or what zipfile raises."""
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if _METADATA.fullmatch(name)]
        if len(found) != 1:
            raise ValueError(f"it has {len(found) or 'no'} METADATA")
        raw, _ = metadata.parse_email(archive.read(found[0]))
    if not raw.get("name") or not raw.get("version"):
        raise ValueError("its METADATA names no package or no version")
    return lockfiles.normalise(raw["name"]), raw["version"]


def _fitting_tags(python: str) -> set[tags.Tag]:
    """The tags of wheels that a CPython such as 3.10 takes on this machine."""
    minor = (3, int(python.partition(".")[2]))
    interpreter = f"cp3{minor[1]}"
    platforms = list(tags.platform_tags())
    return {
        *tags.cpython_tags(minor, [interpreter], platforms),
        *tags.compatible_tags(minor, interpreter, platforms),
    }


def _kept(path: Path) -> Path:
    """The copy in the cache of a file that `check` has passed."""
    name = unquote(path.name)  # a download may be called ...%2Bcu12...
    if found := wheel_store.cached(name, files.sha256(path)):
        return found
    with wheel_store.scratch("site") as work:
        copy = Path(shutil.copyfile(path, work / name))
        return wheel_store.keep(copy, files.sha256(copy))
