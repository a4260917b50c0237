"""`verlock why <variant> <package>`: who asks for a package, within which bounds, and why the lock has no newer one.

The askers come from the lock, their bounds from the metadata of the locked wheels and from the .in files, and the releases from
the index. Each newer release gets the first of these causes that applies: a bound forbids it (one of ours with its reason), it
came after the cut-off, it is a pre-release, it has no wheel for this Python, it contradicts a locked package, or it is simply
not taken because a pin moves only when asked.
"""

from __future__ import annotations

import difflib
import email.parser
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from verlock import paths
from verlock.errors import LockError, NetworkError
from verlock.locking import lock_inputs, wheel_tags
from verlock.locking.loopback_index import File, Index, serve
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen, choose
from verlock.variant.lockfiles import Pin
from verlock.variant.recipe import Prerelease, Recipe, Sdist

_SHOWN = 4  # newer releases explained one by one


@dataclass(frozen=True)
class Ask:
    """One asker: a locked package (`vllm 0.7.3`) or an .in file, what it asks, and the reason written above it."""

    asker: str
    requirement: Requirement | None
    reason: str = ""


@dataclass(frozen=True)
class Release:
    """One version of a project on the index: its first upload and its files."""

    version: Version
    uploaded: datetime | None
    files: tuple[File, ...]


@dataclass(frozen=True)
class Enquiry:
    """What all parts of the answer use: the variant, its pins by name, and the index."""

    chosen: Chosen
    pins: dict[str, Pin]
    index: Index


def run(variant: str, package: str, *, python: str | None = None) -> int:
    """Explain one package of one lock on standard output; returns 0.

    Raises:
        UnknownVariant: there is no such variant.
        LockError: the package is in neither layer of the lock; similar names are suggested.
    """
    chosen = choose(variant, python)
    name = lockfiles.normalise(package)
    pins = {pin.name: pin for pin in chosen.pins}
    if name not in pins:
        return _not_in_pip_layer(chosen, name, pins)
    with serve() as index:
        for line in explain(Enquiry(chosen, pins, index), name):
            print(line)
    return 0


def explain(enquiry: Enquiry, name: str) -> list[str]:
    """The answer, line by line."""
    chosen, pin = enquiry.chosen, enquiry.pins[name]
    lines = [f"{name} {pin.version} in {chosen.name}, Python {chosen.python}"]
    try:
        releases = _releases(enquiry.index, name)
    except NetworkError as error:
        releases = []
        lines.append(f"  (the index cannot be asked: {error.problem})")
    asks = [ask for asker in pin.via for ask in _asks(enquiry, asker, name)]
    lines.append("asked for by")
    for ask in asks:
        wanted = str(ask.requirement) if ask.requirement else "bounds unknown without the index"
        lines.append(f"  {ask.asker}: {wanted}")
        lines += [f"    {part}" for part in ask.reason.splitlines()]
    lines += _exceptions(chosen.recipe, name)
    newer = [release for release in releases if release.version > Version(pin.version)]
    if not releases:
        return lines
    if not newer:
        return [*lines, "there is no newer release"]
    lines.append(f"why none of the {len(newer)} newer releases" if len(newer) > 1 else "why not the newer release")
    for release, cause in _grouped(enquiry, asks, newer):
        lines.append(f"  {release}: {cause}")
    return lines


def _exceptions(recipe: Recipe, name: str) -> list[str]:
    """What the recipe allows only for this package."""
    allowed: list[tuple[str, Sequence[Sdist | Prerelease]]] = [
        ("built from its sdist", recipe.sdist),
        ("may be a pre-release", recipe.prerelease),
    ]
    aside = [each for each in recipe.override if lockfiles.normalise(Requirement(each.requirement).name) == name]
    return [
        f"{what}: {' '.join(filter(None, [each.reason, each.link]))}"
        for what, listed in allowed
        for each in listed
        if lockfiles.normalise(each.package) == name
    ] + [f"set aside, {each.said}: {each.reason} {each.link}" for each in aside]


def _grouped(enquiry: Enquiry, asks: Sequence[Ask], newer: Sequence[Release]) -> list[tuple[str, str]]:
    """Neighbouring releases with the same cause in one line, oldest first."""
    groups: list[tuple[list[Release], str]] = []
    for release in sorted(newer, key=lambda release: release.version):
        cause = _why_not(enquiry, asks, release, thorough=len(groups) < _SHOWN)
        if groups and groups[-1][1] == cause:
            groups[-1][0].append(release)
        else:
            groups.append(([release], cause))
    named = []
    for releases, cause in groups:
        first, last = releases[0], releases[-1]
        span = str(first.version) if first is last else f"{first.version} to {last.version}"
        day = f" ({first.uploaded.date()})" if first.uploaded else ""
        named.append((span + day, cause))
    return named


def _why_not(enquiry: Enquiry, asks: Sequence[Ask], release: Release, *, thorough: bool) -> str:
    recipe, python = enquiry.chosen.recipe, enquiry.chosen.python
    for ask in asks:
        if ask.requirement and not ask.requirement.specifier.contains(release.version, prereleases=True):
            reason = f": {' '.join(ask.reason.split())}" if ask.reason else ""
            return f"cap, {ask.asker} asks for {ask.requirement.specifier}{reason}"
    limit = datetime.combine(recipe.cutoff.date, datetime.min.time(), timezone.utc)
    if release.uploaded is None or release.uploaded >= limit:
        return f"cut-off, nothing from {recipe.cutoff.date} on: {recipe.cutoff.reason}"
    if release.version.is_prerelease:
        return "a pre-release, and the recipe names no exception for it"
    fitting = [file for file in release.files if wheel_tags.fits(file.filename, python, recipe.platform.glibc)]
    if not fitting:
        needed = wheel_tags.oldest_glibc([file.filename for file in release.files], python)
        newer = f"; it has one for glibc {needed}" if needed else ""
        return f"no wheel for Python {python} on linux-64 with glibc {recipe.platform.glibc}{newer}"
    if thorough and (conflict := _conflict(enquiry, fitting[0])):
        return f"conflict, {conflict}"
    return "allowed; a pin moves only when asked (`--upgrade`), and other locked packages may hold it back"


# who asks ---------------------------------------------------------------------------------------------


def _asks(enquiry: Enquiry, asker: str, name: str) -> list[Ask]:
    if asker.startswith(("-r ", "-c ")):
        path = paths.ROOT / asker[3:]
        found = [(line, reason) for line, reason in reasons(path) if lockfiles.normalise(line.name) == name]
        return [Ask(paths.shown(path), requirement, reason) for requirement, reason in found]
    pin = enquiry.pins.get(lockfiles.normalise(asker))
    if pin is None:
        return [Ask(asker, None)]
    requirements = _requirements(enquiry, pin, _extras(enquiry, pin))
    if requirements is None:
        return [Ask(f"{pin.name} {pin.version}", None)]
    found_here = [item for item in requirements if lockfiles.normalise(item.name) == name]
    return [Ask(f"{pin.name} {pin.version}", item) for item in found_here] or [
        Ask(f"{pin.name} {pin.version}", Requirement(name))
    ]


def reasons(path: Path) -> list[tuple[Requirement, str]]:
    """The requirements of one .in file, not of its includes, each with the comment above it or above its run of lines."""
    found: list[tuple[Requirement, str]] = []
    comment: list[str] = []
    fresh = True
    for line in lock_inputs.text_of(path).splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment = [text.lstrip("# ")] if fresh else [*comment, text.lstrip("# ")]
            fresh = False
            continue
        if not text or text.startswith("-"):
            comment, fresh = [], True
            continue
        try:
            found.append((Requirement(re.sub(r"\s#.*$", "", text)), "\n".join(comment)))
        except InvalidRequirement as error:
            raise LockError(f"{paths.shown(path)}: {text!r} is not a requirement: {error}", "see PEP 508") from None
        fresh = True
    return found


def _extras(enquiry: Enquiry, pin: Pin) -> set[str]:
    """The extras of a locked package that its own askers ask for."""
    extras: set[str] = set()
    for asker in pin.via:
        if asker.startswith(("-r ", "-c ")):
            asked = [item for item, _ in reasons(paths.ROOT / asker[3:])]
        else:
            asked = _requirements(enquiry, enquiry.pins[asker], None) or [] if asker in enquiry.pins else []
        extras.update(*(item.extras for item in asked if lockfiles.normalise(item.name) == pin.name))
    return extras


def _requirements(enquiry: Enquiry, pin: Pin, extras: set[str] | None) -> list[Requirement] | None:
    """What a locked package requires on this Python with these extras (any, when None); None when unknown."""
    try:
        files = {f"sha256:{file.sha256}": file for file in enquiry.index.files(pin.name)}
        wheel = next(files[value] for value in pin.hashes if value in files and files[value].filename.endswith(".whl"))
        return _requires(enquiry.index, wheel, enquiry.chosen.python, extras)
    except (NetworkError, StopIteration):
        return None


def _requires(index: Index, wheel: File, python: str, extras: set[str] | None) -> list[Requirement]:
    message = email.parser.Parser().parsestr(index.metadata(wheel.sha256).decode("utf-8", "replace"), headersonly=True)
    requirements = [Requirement(text) for text in message.get_all("Requires-Dist") or []]
    return [item for item in requirements if _applies(item, python, extras)]


def _applies(requirement: Requirement, python: str, extras: set[str] | None) -> bool:
    if requirement.marker is None:
        return True
    base = {
        "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "platform_system": "Linux",
        "platform_machine": "x86_64", "os_name": "posix", "implementation_name": "cpython",
        "platform_python_implementation": "CPython", "platform_release": "", "platform_version": "",
        "implementation_version": f"{python}.0",
    }  # fmt: skip
    named = (
        {"", *extras}
        if extras is not None
        else {"", *re.findall(r"extra\s*==\s*['\"]([^'\"]+)['\"]", str(requirement.marker))}
    )
    return any(requirement.marker.evaluate({**base, "extra": extra}) for extra in named)


# the releases -----------------------------------------------------------------------------------------


def _releases(index: Index, name: str) -> list[Release]:
    files: dict[Version, list[File]] = {}
    for file in index.files(name):
        try:
            version = (
                parse_wheel_filename(file.filename)[1]
                if file.filename.endswith(".whl")
                else parse_sdist_filename(file.filename)[1]
            )
        except (InvalidWheelFilename, InvalidSdistFilename):
            continue
        files.setdefault(version, []).append(file)
    return [
        Release(version, min((file.uploaded for file in listed if file.uploaded), default=None), tuple(listed))
        for version, listed in files.items()
    ]


def _conflict(enquiry: Enquiry, wheel: File) -> str | None:
    """Which requirement of a newer release the lock contradicts."""
    try:
        requirements = _requires(enquiry.index, wheel, enquiry.chosen.python, set())
    except NetworkError:
        return None
    for item in requirements:
        pin = enquiry.pins.get(lockfiles.normalise(item.name))
        if pin and not item.specifier.contains(pin.version, prereleases=True):
            return (
                f"it asks for {item.name}{item.specifier}, and the lock has {pin.version} (wanted by {_list(pin.via)})"
            )
    return None


def _list(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _not_in_pip_layer(chosen: Chosen, name: str, pins: dict[str, Pin]) -> int:
    packages = {item["name"]: item for item in lockfiles.conda_packages(chosen.locks / lockfiles.CONDA_LOCK)}
    if name not in packages:
        near = difflib.get_close_matches(name, [*pins, *packages], n=3)
        raise LockError(
            f"{name} is in no layer of {chosen.name} for Python {chosen.python}",
            f"did you mean {' or '.join(near)}?" if near else "`nox -s why` takes the name of a locked package",
        )
    print(f"{name} {packages[name]['version']} in the conda layer of {chosen.name}, Python {chosen.python}")
    for file in lock_inputs.environment_files(chosen):
        for line in lock_inputs.text_of(file).splitlines():
            if re.match(rf"\s*-\s*{re.escape(name)}(\s|$)", line):
                print(f"  {paths.shown(file)}: {line.strip(' -')}")
    askers = lockfiles.conda_askers(chosen.locks / lockfiles.CONDA_LOCK, name)
    print("\n".join(f"  {asker} {version}: {name} {bound}".rstrip() for asker, version, bound in askers))
    print("  (a conda package moves by `nox -s lock -- --upgrade`)")
    return 0
