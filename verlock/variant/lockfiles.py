"""Reading locks: pins, with their hashes and who asks for them. Nothing here is slow to import: `create` reads pins."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import LockError
from verlock.system.files import sha256_if_there
from verlock.variant.shape import fits

CONDA_LOCK = "conda-lock.yml"
REQUIREMENTS = "requirements.txt"
BUILD_REQUIREMENTS = "build-requirements.txt"
SOURCES = "sources.json"
FILES = "files.json"
PIP_LAYER = (REQUIREMENTS, BUILD_REQUIREMENTS)
ALL = (CONDA_LOCK, REQUIREMENTS, BUILD_REQUIREMENTS, SOURCES, FILES)
TOOLS = "tools"
BASE_TOOLS = "requirements"  # of the sets of tools the one that verlock itself runs on; all others include it

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==(?P<version>[A-Za-z0-9][\w.!+-]*)\s*(?:;(?P<marker>[^\\]*))?$"
)
_FILE = ("package", "version", "filename", "sha256", "uploaded")
CONDA_LOCK_VERSION = 1  # of the format; rattler's lock files have 4 and more
PLATFORM = "linux-64"
_CONDA = {
    "package": [{**dict.fromkeys(("name", "version", "url", "platform"), str), "hash": dict, "dependencies": dict}]
}
_SOURCES = {
    "patches": [{"file": str, "sha256": str, "touches": [dict.fromkeys(("path", "before", "after"), str)]}],
    "wheel": (None, dict.fromkeys(("filename", "sha256", "commit", "tree", "inputs"), str)),
}
_FILES = {name: {"sha256": str, "files": [{"size": int, **dict.fromkeys(_FILE, str)}]} for name in PIP_LAYER}
_HASH = re.compile(r"^--hash=(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Pin:
    """One line of the pip layer: `name` is normalised, `hashes` are `sha256:<hex>`, `via` is who asks for it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""
    via: tuple[str, ...] = ()


def restore(*damaged: Path) -> str:
    """What to do about locks that were damaged. In the middle of a merge, too, this command gives back whole files."""
    import shlex  # not for a run that finds nothing to do

    return f"restore what was locked: `git checkout HEAD -- {shlex.join(map(paths.shown, damaged))}`"


def text_of(path: Path) -> str:
    """The text of a lock. Raises LockError where it is missing, cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LockError(
            f"{paths.shown(path)} is missing", "make it with `nox -s lock`, or name another Python"
        ) from None
    except UnicodeDecodeError as error:
        raise LockError(f"{paths.shown(path)} is not text: {error}", restore(path)) from None
    except IsADirectoryError:
        raise LockError(f"{paths.shown(path)} is a folder", "move it away, then restore the lock from git") from None


def normalise(name: str) -> str:
    """A distribution's name as the packaging standards compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path, *, hashed: bool = True, forked: bool = False) -> list[Pin]:
    """The pins of a requirements.txt in pip-tools' format.

    Args:
        path: of the file.
        hashed: every pin must have a hash.
        forked: a package may be there several times, with other markers, as in a lock for several Pythons.

    Raises:
        LockError: the file is missing, or a line (whose number is given) is no pin, has no hash or appears twice.
    """
    lines = text_of(path).splitlines()
    found: dict[tuple[str, str], Pin] = {}
    for number, text, via in _entries(lines):
        words = text.split("--hash=")
        match = _PIN.match(words[0].strip())
        if not match:
            raise LockError(f"{paths.shown(path)}, line {number}: not a pin: {words[0].strip()!r}", restore(path))
        hashes = []
        for word in words[1:]:
            one = _HASH.match(f"--hash={word.strip()}")
            if not one:
                raise LockError(f"{paths.shown(path)}, line {number}: not a sha256: {word.strip()!r}", restore(path))
            hashes.append(one[1])
        name = normalise(match["name"])
        if hashed and not hashes:
            raise LockError(f"{paths.shown(path)}, line {number}: {name} has no hash", restore(path))
        marker = (match["marker"] or "").strip()
        key = name, marker if forked else ""
        if key in found:
            raise LockError(f"{paths.shown(path)}, line {number}: {name} is there twice", restore(path))
        found[key] = Pin(name, match["version"], tuple(hashes), marker, tuple(via))
    return list(found.values())


def _entries(lines: Sequence[str]) -> Iterator[tuple[int, str, list[str]]]:
    """Each requirement with its line number, its continuation lines joined, and the names of the `# via` lines below it."""
    current: tuple[int, str, list[str]] | None = None
    continued = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("#"):
            if current and line.startswith(" "):
                # `# via one`, or `# via` and below it `#   one` for each
                listed = text[1:] if text.startswith("#   ") else text.removeprefix("# via")
                current[2].extend([listed.strip()] if listed.strip() else [])
            continue
        if continued and current:
            current = (current[0], f"{current[1]} {text.rstrip(chr(92)).strip()}", current[2])
        elif text:
            if current:
                yield current
            current = (number, text.rstrip("\\").strip(), [])
        continued = text.endswith("\\")
    if current:
        yield current


def read_yaml(text: str) -> Any:
    """Parse YAML with libyaml where there is one, which is ten times as quick. Raises ValueError when it is not YAML."""
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def conda_packages(lock: Path) -> list[dict[str, Any]]:
    """The linux-64 packages of a conda-lock.yml, in its order: `name`, `version`, `url`, `sha256` and `python` (is it one's?).

    Raises:
        LockError: the file is missing, is not conda-lock's or has none; or one has no sha256, is there twice, is of pip, is not
            for every environment, or is not what its URL names.
    """
    listed: dict[str, dict[str, Any]] = {}
    for item in _conda_entries(lock):
        if problem := "is there twice" if item["name"] in listed else _unfit(item):
            raise LockError(f"{paths.shown(lock)}: {item['name']} {item['version']} {problem}", restore(lock))
        named = {key: item[key] for key in ("name", "version", "url")}
        python = bool({"python", "python_abi"} & set(item["dependencies"]))
        listed[item["name"]] = {**named, "sha256": item["hash"]["sha256"], "python": python}
    if not listed:
        raise LockError(f"{paths.shown(lock)} has no package for {PLATFORM}", restore(lock))
    return list(listed.values())


def _unfit(item: dict[str, Any]) -> str:
    """Why an entry of a conda-lock.yml cannot be installed as it is; nothing where it can.

    conda-lock writes each of these for other uses: both layers in one file, packages for developers beside those for everybody,
    and md5 alone where a channel says no more.
    """
    from urllib.parse import unquote  # not for a run that finds nothing to do

    from verlock.system import addresses

    if item.get("manager") != "conda":
        return f"is not a package of conda, but of {item.get('manager')}"
    if item.get("category", "main") != "main" or item.get("optional"):
        return f"is not for every environment: its category is {item.get('category')}"
    if not _is_sha256(item["hash"].get("sha256")):
        return "has no sha256"
    *_, folder, file = ["", *unquote(item["url"]).rsplit("/", 2)]
    if not file.endswith((".conda", ".tar.bz2")) or file.rsplit("-", 2)[:-1] != [item["name"], item["version"]]:
        return f"has the URL of another file: {addresses.shown(item['url'])}"
    return "" if folder in (PLATFORM, "noarch") else f"is not for {PLATFORM}: {addresses.shown(item['url'])}"


def conda_askers(lock: Path, name: str) -> list[tuple[str, str, str]]:
    """Who depends on a package of a conda-lock.yml: name, version and bound of each. Raises LockError."""
    return [
        (item["name"], item["version"], str(item["dependencies"][name]))
        for item in _conda_entries(lock)
        if name in item["dependencies"]
    ]


def _conda_entries(lock: Path) -> list[dict[str, Any]]:
    """The linux-64 entries of a conda-lock.yml. Raises LockError unless each entry has what one has, at least."""
    try:
        content = read_yaml(text_of(lock))
    except ValueError as error:
        raise LockError(
            f"{paths.shown(lock)} is not a conda-lock.yml: {' '.join(str(error).split())}", restore(lock)
        ) from None
    if not fits(content, _CONDA):
        raise LockError(f"{paths.shown(lock)} is not a conda-lock.yml", restore(lock))
    if content.get("version") != CONDA_LOCK_VERSION:
        raise LockError(
            f"{paths.shown(lock)} is version {content.get('version')} of conda-lock's format, not {CONDA_LOCK_VERSION}",
            restore(lock),
        )
    return [item for item in content["package"] if item["platform"] == PLATFORM]


def sources(folder: Path) -> dict[str, Any]:
    """`sources.json` of one lock folder: `{"patches": [...], "wheel": {...} | None}`, both empty where there is none.

    Raises LockError when it is not JSON of that form, or names a file outside the package that it is about.
    """
    path = folder / SOURCES
    if not path.exists():
        return {"patches": [], "wheel": None}
    try:
        locked: dict[str, Any] = json.loads(text_of(path))
    except ValueError:
        locked = {}
    if not fits(locked, _SOURCES) or "wheel" not in locked or not _safe(locked):
        raise LockError(f"{paths.shown(path)} is not a lock of sources", restore(path))
    return locked


def files(folder: Path) -> dict[str, dict[str, Any]]:
    """`files.json` of one lock folder: for each file of the pip layer its `sha256`, and of each package one file.

    A file has `package` (normalised), `version`, `filename`, `size` in bytes, `sha256` in hex, and `uploaded`, a UTC time in the
    form 2025-02-20T07:31:02Z. Raises LockError where it is missing, is not JSON of that form, or names a file elsewhere.
    """
    path = folder / FILES
    try:
        locked: dict[str, dict[str, Any]] = json.loads(text_of(path))
    except ValueError:
        locked = {}
    good = fits(locked, _FILES)
    listed = [each for name in PIP_LAYER for each in locked[name]["files"]] if good else []
    if not good or not all(
        _is_sha256(each["sha256"])
        and each["size"] >= 0
        and _is_inside(each["filename"])
        and "/" not in each["filename"]
        for each in listed
    ):
        raise LockError(f"{paths.shown(path)} is not a list of locked files", restore(path))
    return locked


def taken(folder: Path) -> dict[str, dict[str, Any]]:
    """Package -> its file of `files`, for the pins of requirements.txt. Raises LockError, too where they are of other pins."""
    locked = files(folder)[REQUIREMENTS]
    if locked["sha256"] != sha256_if_there(folder / REQUIREMENTS):
        raise LockError(f"{paths.shown(folder / FILES)} was made from other pins", "make it again with `nox -s lock`")
    return {each["package"]: each for each in locked["files"]}


def _safe(locked: dict[str, Any]) -> bool:
    """Whether a sources.json has sha256 where they belong, and names no file that lies elsewhere."""
    wheels = [locked["wheel"]] if locked["wheel"] else []
    touched = [each for item in locked["patches"] for each in item["touches"]]
    sums = [item["sha256"] for item in (*locked["patches"], *wheels)]
    sums += [each[key] for each in touched for key in ("before", "after")]
    names = [*(item["file"] for item in locked["patches"]), *(wheel["filename"] for wheel in wheels)]
    inside = all(_is_inside(path) for path in (*names, *(each["path"] for each in touched)))
    return inside and not any("/" in name for name in names) and all(map(_is_sha256, sums))


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_inside(path: str) -> bool:
    """Whether a path is one below the folder that it is relative to."""
    return not {"..", ".", ""} & {*path.split("/")} and path.isprintable()
