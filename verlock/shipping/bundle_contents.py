"""What goes into a bundle: each file once, with the variants that it is for.

A variant takes the files of its pip layer (wheels, sdists, and what those are built with), its artefacts and site wheels, its git
source and the released wheel with the compiled objects, and its base: the conda layer's packages, or the host's CPython. Beside
them come verlock itself at its commit, verlock's tools and nox as wheels, and the starter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verlock import console, paths
from verlock.conda import client
from verlock.env import artefacts, create
from verlock.errors import BundleRefused, NoBase
from verlock.shipping import starter, trees, wheel_store
from verlock.system import files, host_python
from verlock.variant import lockfiles, manifest
from verlock.variant.chosen import Chosen

FRONT = "front.txt"  # the lock of nox and verlock's tools, in locks/tools
EVERY = "every variant"  # what the repository, the tools and the starter are for
STARTER = "verlock"


@dataclass(frozen=True)
class Item:
    """One file of a bundle: where it lies on this machine, its size in bytes and sha256, and whom it is for."""

    path: str
    source: Path
    size: int
    sha256: str
    wanted_by: set[str]


@dataclass
class Contents:
    """The files of a bundle by their path in it, and what its manifest says besides."""

    scratch: Path
    items: dict[str, Item] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, path: str, source: Path, wanted_by: str, sha256: str = "") -> None:
        """Add a file; one that is there already is for one variant more. Raises BundleRefused where that has other bytes."""
        sha256 = sha256 or files.sha256(source)
        item = self.items.setdefault(path, Item(path, source, source.stat().st_size, sha256, set()))
        if item.sha256 != sha256:
            raise BundleRefused(
                f"{', '.join(item.wanted_by)} and {wanted_by} want different files called {path}",
                "make a bundle of each",
            )
        item.wanted_by.add(wanted_by)

    def manifest(self) -> dict[str, Any]:
        """The content of the bundle's manifest; the same files give the same."""
        listed = [
            {"path": each.path, "size": each.size, "sha256": each.sha256, "for": sorted(each.wanted_by)}
            for each in sorted(self.items.values(), key=lambda item: item.path)
        ]
        return {**self.facts, "files": listed}


@dataclass(frozen=True)
class Options:
    """What a user may choose of a bundle's content."""

    base: str = "auto"  # conda, host or auto
    strict: bool = False  # a missing optional artefact is an error
    site_wheels: Mapping[str, Path] | None = None  # as for `create`
    tools_for: Sequence[str] = ()  # Pythons that verlock's tools are for


def collect(wanted: Sequence[Chosen], options: Options, scratch: Path) -> Contents:
    """Have all files of a bundle of these environments on this machine.

    Raises:
        BundleRefused: something is not committed, or the host's CPython cannot be carried.
        NoBase, ArtefactMissing, SiteWheelRefused, NetworkError, IntegrityError, SourceUnavailable and the like: what is missing.
    """
    contents = Contents(scratch)
    at = trees.commit()  # first: what is not committed is refused before 3 GB are fetched
    bases = [_base(chosen, options.base) for chosen in wanted]
    _wheels(contents, wanted, options.tools_for)
    taken: dict[str, dict[str, Any]] = {}
    for chosen, base in zip(wanted, bases, strict=True):
        with console.step(chosen.name, f"Python {chosen.python}, base: {'host' if base else 'conda'}"):
            facts: dict[str, Any] = {"digest": chosen.digest, "base": "host" if base else "conda", "python": None}
            facts |= _artefacts(contents, chosen, options)
            facts["source"] = _source(contents, chosen)
            if base:
                facts["python"] = _interpreter(contents, chosen, base)
            else:
                _conda(contents, chosen)
            taken.setdefault(chosen.name, {})[chosen.python] = facts
    with console.step("repository", f"commit {at[:12]}"):
        name = f"repository-{at[:12]}.tar"
        trees.repository(at, scratch / name)
        contents.add(name, scratch / name, EVERY)
        (scratch / STARTER).write_bytes(Path(starter.__file__).read_bytes())
        (scratch / STARTER).chmod(0o755)
        contents.add(STARTER, scratch / STARTER, EVERY)
    contents.facts = {"commit": at, "repository": name, "tools": sorted(options.tools_for), "variants": taken}
    return contents


def _base(chosen: Chosen, kind: str) -> host_python.HostPython | None:
    """The host's CPython that the environment is to stand on; None where the conda layer is. Raises NoBase."""
    lock, mirrors = chosen.locks / lockfiles.CONDA_LOCK, client.mirrors_from_environment()
    if kind == "conda" or (kind == "auto" and client.reachable(lock, mirrors)):
        return None
    if found := host_python.find(chosen.python):
        return found
    raise NoBase(
        f"no conda channel answers, and there is no CPython {chosen.python} on this machine to be carried",
        f"install one (`uv python install {chosen.python}`), or name a conda-forge mirror in VERLOCK_CONDA_MIRROR",
    )


def _wheels(contents: Contents, wanted: Sequence[Chosen], tools_for: Sequence[str]) -> None:
    """Everything that comes from an index: fetched together, since variants share most of it."""
    glibc = min((chosen.recipe.platform.glibc for chosen in wanted), key=lambda text: int(text.partition(".")[2]))
    placed: list[tuple[str, wheel_store.Wanted, str]] = []
    for chosen in wanted:
        listed = wheel_store.of_lock(chosen.locks)
        if source := chosen.recipe.source:
            donor = source.precompiled
            listed.append(wheel_store.Wanted(donor.filename, donor.sha256, donor.size, donor.package))
        placed += [(manifest.WHEELS, each, chosen.name) for each in listed]
    for python in tools_for:
        tools = wheel_store.of_tools(paths.LOCKS / lockfiles.TOOLS / FRONT, python, glibc)
        placed += [(manifest.TOOLS, each, EVERY) for each in tools]
    with console.step("wheels", f"{len({each for _, each, _ in placed})} files") as step:
        wheel_store.have([each for _, each, _ in placed], lambda text: setattr(step, "detail", text))
        step.detail = f"{len({each for _, each, _ in placed})} files; the store has {wheel_store.size() / 1e9:.2f} GB"
    for folder, each, name in placed:
        contents.add(f"{folder}/{each.filename}", wheel_store.place(each), name, each.sha256)


def _artefacts(contents: Contents, chosen: Chosen, options: Options) -> dict[str, Any]:
    """The artefacts as `create` takes them; what the manifest says of those that are the user's own, and of those missing."""
    from verlock.env import site_wheels

    own = (
        site_wheels.remembered(chosen) if options.site_wheels is None else site_wheels.keep(chosen, options.site_wheels)
    )
    making = create.fetched(create.Making(chosen, create.Options(strict=options.strict), site_wheels=own))
    carried = {}
    for package, (path, sha256) in making.wheels.items():
        if package in own:
            carried[package] = f"{manifest.SITE}/{sha256}/{path.name}"
            contents.add(carried[package], path, chosen.name)
        else:
            contents.add(f"{manifest.ARTEFACTS}/{artefacts.filename(f'/{path.name}')}", path, chosen.name)
    for package, reason in making.missing.items():
        console.warn(f"{chosen.name}: {package} is not in the bundle: {reason}")
    return {"site_wheels": carried, "missing": sorted(making.missing)}


def _source(contents: Contents, chosen: Chosen) -> str | None:
    source = chosen.recipe.source
    if source is None:
        return None
    path = f"{manifest.SOURCES}/{source.package}-{source.commit}.tar"
    archive = contents.scratch / Path(path).name
    if not archive.exists():
        trees.source(source, contents.scratch / f"{chosen.name}-source", archive)
    contents.add(path, archive, chosen.name)
    return path


def _interpreter(contents: Contents, chosen: Chosen, host: host_python.HostPython) -> dict[str, Any]:
    tree = trees.interpreter(host)
    path = f"{manifest.PYTHON}/cpython-{tree.version}.tar"
    archive = contents.scratch / Path(path).name
    if not archive.exists():
        trees.write(archive, tree.root, tree.names, tree.changed, top=f"cpython-{tree.version}/")
    contents.add(path, archive, chosen.name)
    about = {"file": path, "version": tree.version, "sha256": contents.items[path].sha256}
    return {**about, "programs": tree.programs()}


def _conda(contents: Contents, chosen: Chosen) -> None:
    folder = paths.cache_dir() / "bundle-conda"
    lock = chosen.locks / lockfiles.CONDA_LOCK
    sums = {os.path.basename(item["url"]): item["sha256"] for item in lockfiles.conda_packages(lock)}  # noqa: PTH119 (a URL)
    for tail, path in client.fetch(lock, folder, mirrors=client.mirrors_from_environment()).items():
        contents.add(f"{manifest.CONDA}/{tail}", path, chosen.name, sums[path.name])
