"""A lock in the forms that other tools read: pylock.toml, requirements.txt, conda-lock.yml, and rattler's lock file.

No form holds all that a variant is. What the chosen one leaves out (patches, a wheel built from source, the other layer) is said
on screen and, where there is a place for it, in the file. No address is kept in locks/: those of the pip layer's files are
looked up on the user's own index, and written without the credentials that are needed to reach it. A pylock.toml may name the
files of a bundle instead, by their paths.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from verlock import __version__, console
from verlock.conda import client
from verlock.env import artefacts
from verlock.errors import ExportRefused
from verlock.locking import loopback_index
from verlock.system import addresses, files
from verlock.variant import lockfiles, manifest
from verlock.variant.chosen import Chosen


@dataclass(frozen=True)
class Form:
    """One form: what makes its text and which layers it holds."""

    text: Callable[[Chosen], str]
    conda: bool
    pip: bool


@dataclass(frozen=True)
class Carried:
    """The files of a bundle as a lock file in `folder` names them: sha256 -> path relative to that folder.

    `lacking`: artefacts that the bundle was made without.
    """

    bundle: Path
    paths: Mapping[str, str]
    lacking: frozenset[str]

    @classmethod
    def of(cls, bundle: Path, chosen: Chosen, folder: Path) -> Carried:
        """Raises BundleRefused where there is no bundle, ExportRefused where a link stands between it and the folder."""
        content = manifest.read(bundle)
        way = os.path.relpath(bundle, folder)
        place = Path(os.path.normpath(folder.resolve() / way))
        if not (place.exists() and place.samefile(bundle)):
            # pip cuts `..` off the folder's name, uv follows the link and goes up from there
            raise ExportRefused(
                f"{folder} is a link or lies below one, and pip and uv do not agree where `..` leads from there",
                f"name the file by its real path, in {folder.resolve()}",
            )
        entry = content["variants"].get(chosen.name, {}).get(chosen.python, {"missing": [], "site_wheels": {}})
        there = {
            each["sha256"]: os.path.normpath(f"{way}/{each['path']}")
            for each in content["files"]
            if (file := bundle / each["path"]).is_file() and file.stat().st_size == each["size"]
        }
        lacking = map(lockfiles.normalise, [*entry["missing"], *entry["site_wheels"]])
        return cls(bundle, there, frozenset(lacking))

    def path(self, filename: str, sha256: str) -> str:
        """The path of a file. Raises ExportRefused where the bundle lacks it."""
        if sha256 not in self.paths:
            raise ExportRefused(
                f"{self.bundle} does not have {filename} with the locked sha256",
                f"`nox -s bundle -- --verify {self.bundle}` says whether it is whole; if it is, make one of this lock",
            )
        return self.paths[sha256]


def run(chosen: Chosen, form: str, output: Path | None, bundle: Path | None = None) -> int:
    """`verlock export`: write a lock in one of `FORMS` to a file, or to standard output where none is named. Returns 0.

    With a bundle, which is for a pylock in a file only, that names the bundle's files by their paths from the file.

    Raises:
        ExportRefused: the index or the bundle does not have a locked file, or the form cannot hold its address.
        BundleRefused: there is no bundle, or it is in parts.
        LockError, RecipeError, NetworkError.
    """
    wanted = FORMS[form]
    chosen.valid()
    carried = Carried.of(bundle, chosen, output.parent) if bundle and output else None
    text = pylock(chosen, carried) if carried else wanted.text(chosen)
    if output is None:
        sys.stdout.write(text)
    else:
        files.write_whole(output, text)
        console.say(f"{chosen.name} for Python {chosen.python} as {form}: {output}")
        if form == "pylock" and not _is_named_well(output):
            console.warn("pip and uv read such a file only under the name pylock.toml or pylock.<name>.toml")
    if form == "rattler":
        console.say(f"it is in {text.partition(chr(10))[0].replace('version: ', 'version ')} of rattler's format")
    for line in left_out(chosen, wanted, carried):
        console.warn(f"not in it: {line}")
    return 0


def _is_named_well(pylock: Path) -> bool:
    from packaging.pylock import is_valid_pylock_path

    return is_valid_pylock_path(pylock)


def left_out(chosen: Chosen, form: Form, carried: Carried | None = None) -> list[str]:
    """What of a variant a form does not hold, a line each; with a bundle, what that was made without too."""
    recipe = chosen.recipe
    lines = [] if form.conda else ["the conda layer (Python itself, git, compilers)"]
    if not form.pip:
        return [*lines, "the pip layer, its artefacts and its patches"]
    if recipe.source:
        lines.append(f"{recipe.source.package}, which is built from commit {recipe.source.commit[:12]}")
    lines += [f"the patch {patch.file} of {patch.package}" for patch in recipe.patch]
    return lines + [f"{name}, of which the bundle has no locked file" for name in _lacking(chosen, carried)]


# the pip layer ----------------------------------------------------------------------------------------


def _located(chosen: Chosen) -> list[dict[str, Any]]:
    """The files of files.json, each with its `url` on the user's index."""
    listed = list(lockfiles.taken(chosen.locks).values())
    with loopback_index.serve() as index:
        index.prefetch([each["package"] for each in listed])
        found = []
        for each in listed:
            there = {file.sha256: file.url for file in index.files(each["package"])}
            if each["sha256"] not in there:
                raise ExportRefused(
                    f"{addresses.host(index.source)} does not have {each['filename']} with the locked sha256",
                    "export again with an index that has it (UV_DEFAULT_INDEX or PIP_INDEX_URL names one)",
                )
            found.append({**each, "url": _public(there[each["sha256"]])})
    return found


def _in_bundle(chosen: Chosen, carried: Carried) -> list[dict[str, Any]]:
    """The files of files.json, each with its `path`. Raises ExportRefused."""
    listed = lockfiles.taken(chosen.locks).values()
    return [{**each, "path": carried.path(each["filename"], each["sha256"])} for each in listed]


def _public(url: str) -> str:
    """An address without credentials, query and fragment. Raises ExportRefused where a token is a part of its path."""
    bare = urlsplit(addresses.split(url)[0])._replace(query="", fragment="").geturl()
    if addresses.shown(bare) != bare:
        raise ExportRefused(
            f"an address at {addresses.host(bare)} has a token in it, which the exported file would give away",
            "export again with an index that takes the token from ~/.netrc",
        )
    return bare


def _artefacts(chosen: Chosen) -> list[tuple[str, str, str, str]]:
    """Package, version, URL and sha256 of each artefact that fits the variant's torch and this Python."""
    recipe = chosen.recipe
    fitting = [(each, each.file_for(recipe.torch, chosen.python)) for each in recipe.artefact]
    return [(lockfiles.normalise(each.package), each.version, file.url, file.sha256) for each, file in fitting if file]


def _lacking(chosen: Chosen, carried: Carried | None) -> list[str]:
    """The artefacts of which a bundle has no locked file and says so: it has a site wheel, or nothing."""
    if carried is None:
        return []
    return [
        name for name, _, _, sha256 in _artefacts(chosen) if name in carried.lacking and sha256 not in carried.paths
    ]


def pylock(chosen: Chosen, carried: Carried | None = None) -> str:
    """The pip layer as pylock.toml (PEP 751): the file of each package that the locked platform takes, with its URL.

    Where files are `carried` by a bundle, each has its path in the place of its URL, and nobody is asked.

    Raises ExportRefused, NetworkError, LockError.
    """
    import tomlkit
    from packaging.markers import Marker
    from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock
    from packaging.specifiers import SpecifierSet
    from packaging.utils import NormalizedName
    from packaging.version import Version

    packages = []
    for each in _located(chosen) if carried is None else _in_bundle(chosen, carried):
        uploaded = datetime.fromisoformat(each["uploaded"].replace("Z", "+00:00"))
        file = {"name": each["filename"], "upload_time": uploaded, "size": each["size"]}
        file |= {key: each[key] for key in ("url", "path") if key in each}
        hashes = {"sha256": each["sha256"]}
        kind: dict[str, Any] = (
            {"wheels": [PackageWheel(**file, hashes=hashes)]}
            if each["filename"].endswith(".whl")
            else {"sdist": PackageSdist(**file, hashes=hashes)}
        )
        packages.append(Package(name=NormalizedName(each["package"]), version=Version(each["version"]), **kind))
    lacking = _lacking(chosen, carried)
    for name, version, url, sha256 in [each for each in _artefacts(chosen) if each[0] not in lacking]:
        filename = artefacts.filename(url)
        path = carried.path(filename, sha256) if carried else None
        wheel = PackageWheel(name=filename, url=None if carried else url, path=path, hashes={"sha256": sha256})
        own = Version(wheel.name.split("-")[1]) if wheel.name else Version(version)
        packages.append(Package(name=NormalizedName(name), version=own, wheels=[wheel]))
    lock = Pylock(
        lock_version=Version("1.0"),
        environments=[Marker("sys_platform == 'linux' and platform_machine == 'x86_64'")],
        requires_python=SpecifierSet(f"=={chosen.python}.*"),
        created_by="verlock",
        packages=sorted(packages, key=lambda package: package.name),
        tool={"verlock": _about(chosen, left_out(chosen, FORMS["pylock"], carried))},
    )
    lock.validate()
    return tomlkit.dumps(lock.to_dict())


def _about(chosen: Chosen, lines: list[str]) -> dict[str, Any]:
    """What an exported file says of its origin, and of what is not in it."""
    return {
        "version": __version__,
        "variant": chosen.name,
        "digest": chosen.digest,
        "left-out": lines,
    }


def requirements(chosen: Chosen) -> str:
    """The pip layer as a requirements.txt for pip alone, with every locked hash, and the artefacts by URL.

    Raises LockError.
    """
    head = [f"{chosen.name} for CPython {chosen.python} on Linux x86-64, digest {chosen.digest}, from verlock."]
    head += ["Install it into an empty environment: python -m pip install --no-deps --require-hashes -r FILE"]
    head += [f"Not in it: {line}." for line in left_out(chosen, FORMS["requirements"])]
    lines = [*(f"# {line}" for line in head), "--only-binary :all:"]
    lines += [f"--no-binary {name}" for name in chosen.pip_layer().sdists]
    for pin in chosen.pins:
        marker = f" ; {pin.marker}" if pin.marker else ""
        lines.append(
            " \\\n".join([f"{pin.name}=={pin.version}{marker}", *(f"    --hash={each}" for each in pin.hashes)])
        )
    lines += [f"{name} @ {url} \\\n    --hash=sha256:{sha256}" for name, _, url, sha256 in _artefacts(chosen)]
    return "\n".join(lines) + "\n"


# the conda layer --------------------------------------------------------------------------------------


def conda_lock(chosen: Chosen) -> str:
    """Both layers as a conda-lock.yml (version 1), for `conda-lock install`.

    Raises ExportRefused, NetworkError, LockError.
    """
    import yaml  # type: ignore[import-untyped]

    lockfiles.conda_packages(chosen.locks / lockfiles.CONDA_LOCK)  # refuses what is no conda-lock.yml
    content = lockfiles.read_yaml(lockfiles.text_of(chosen.locks / lockfiles.CONDA_LOCK))
    located = [(each["package"], each["version"], each["url"], each["sha256"]) for each in _located(chosen)]
    in_conda = {lockfiles.normalise(each["name"]) for each in content["package"]}
    for name, version, url, sha256 in sorted([*located, *_artefacts(chosen)]):
        if name not in in_conda:  # pip and the like, of which the conda layer brings the same version
            content["package"].append(_pip_entry(name, version, url, sha256))
    lines = [f"{chosen.name} for CPython {chosen.python}, digest {chosen.digest}, from verlock."]
    lines += [f"Not in it: {line}." for line in left_out(chosen, FORMS["conda-lock"])]
    return "".join(f"# {line}\n" for line in lines) + str(yaml.safe_dump(content, sort_keys=False, width=200))


def _pip_entry(name: str, version: str, url: str, sha256: str) -> Mapping[str, Any]:
    return {
        "name": name,
        "version": version,
        "manager": "pip",
        "platform": "linux-64",
        "dependencies": {},
        "url": url,
        "hash": {"sha256": sha256},
        "category": "main",
        "optional": False,
    }


def rattler(chosen: Chosen) -> str:
    """The conda layer in the version of rattler's lock file (pixi.lock) that the locked py-rattler writes.

    Raises LockError, InstallError.
    """
    with tempfile.TemporaryDirectory(prefix="verlock-export-") as folder:
        lockfiles.conda_packages(chosen.locks / lockfiles.CONDA_LOCK)  # refuses what is no conda-lock.yml
        path = Path(folder) / "rattler.lock"
        client.convert(chosen.locks / lockfiles.CONDA_LOCK, path)
        return path.read_text(encoding="utf-8")


FORMS = {
    "pylock": Form(pylock, conda=False, pip=True),
    "requirements": Form(requirements, conda=False, pip=True),
    "conda-lock": Form(conda_lock, conda=True, pip=True),
    "rattler": Form(rattler, conda=True, pip=False),
}
