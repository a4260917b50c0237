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

CONDA_LOCK = "conda-lock.yml"
REQUIREMENTS = "requirements.txt"
BUILD_REQUIREMENTS = "build-requirements.txt"
SOURCES = "sources.json"
ALL = (CONDA_LOCK, REQUIREMENTS, BUILD_REQUIREMENTS, SOURCES)
TOOLS = "tools"
BASE_TOOLS = "requirements"  # of the sets of tools the one that verlock itself runs on; all others include it

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)\s*(?:;(?P<marker>[^\\]*))?$")
_HASH = re.compile(r"^--hash=(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True)
class Pin:
    """One line of the pip layer: `name` is normalised, `hashes` are `sha256:<hex>`, `via` is who asks for it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""
    via: tuple[str, ...] = ()


def text_of(path: Path) -> str:
    """The text of a lock. Raises LockError where it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LockError(
            f"{paths.shown(path)} is missing", "make it with `nox -s lock`, or name another Python"
        ) from None
    except UnicodeDecodeError as error:
        raise LockError(f"{paths.shown(path)} is not text: {error}", "restore it from git") from None


def normalise(name: str) -> str:
    """A distribution's name as the packaging standards compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path, *, hashed: bool = True) -> list[Pin]:
    """The pins of a requirements.txt in pip-tools' format.

    Raises:
        LockError: the file is missing, or a line (whose number is given) is no pin, has no hash or appears twice.
    """
    lines = text_of(path).splitlines()
    found: dict[str, Pin] = {}
    for number, text, via in _entries(lines):
        words = text.split("--hash=")
        match = _PIN.match(words[0].strip())
        if not match:
            raise LockError(
                f"{paths.shown(path)}, line {number}: not a pin: {words[0].strip()!r}",
                "make it again with `nox -s lock`",
            )
        hashes = []
        for word in words[1:]:
            one = _HASH.match(f"--hash={word.strip()}")
            if not one:
                raise LockError(
                    f"{paths.shown(path)}, line {number}: not a sha256: {word.strip()!r}", "only sha256 is taken"
                )
            hashes.append(one[1])
        name = normalise(match["name"])
        if hashed and not hashes:
            raise LockError(
                f"{paths.shown(path)}, line {number}: {name} has no hash", "make it again with `nox -s lock`"
            )
        if name in found:
            raise LockError(
                f"{paths.shown(path)}, line {number}: {name} is there twice", "make it again with `nox -s lock`"
            )
        found[name] = Pin(name, match["version"], tuple(hashes), (match["marker"] or "").strip(), tuple(via))
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
        LockError: the file is missing, is not conda-lock's, or has a package without sha256.
    """
    try:
        content = read_yaml(text_of(lock))
        found = [item for item in content["package"] if item["platform"] == "linux-64"]
        listed = [
            {
                "name": item["name"],
                "version": item["version"],
                "url": item["url"],
                "sha256": item["hash"].get("sha256"),
                "python": bool({"python", "python_abi"} & set(item["dependencies"])),
            }
            for item in found
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{lock} is not a conda-lock.yml: {error!r}", "make it again with `nox -s lock`") from None
    for item in listed:
        if not re.fullmatch(r"[0-9a-f]{64}", item["sha256"] or ""):
            raise LockError(
                f"{lock}: {item['name']} {item['version']} has no sha256", "make it again with `nox -s lock`"
            )
    return listed


def conda_askers(lock: Path, name: str) -> list[tuple[str, str, str]]:
    """Who depends on a package of a conda-lock.yml: name, version and bound of each."""
    content = read_yaml(text_of(lock))
    return [
        (item["name"], item["version"], str(item["dependencies"][name]))
        for item in content["package"]
        if name in item["dependencies"]
    ]


def sources(folder: Path) -> dict[str, Any]:
    """`sources.json` of one lock folder: `{"patches": [...], "wheel": {...} | None}`, both empty where there is none.

    Raises LockError when it is not JSON of that form.
    """
    path = folder / SOURCES
    if not path.exists():
        return {"patches": [], "wheel": None}
    try:
        locked: dict[str, Any] = json.loads(text_of(path))
        for item in locked["patches"]:
            item["file"], item["sha256"], [(each["path"], each["before"], each["after"]) for each in item["touches"]]
        if locked["wheel"] is not None:
            locked["wheel"]["filename"], locked["wheel"]["sha256"], locked["wheel"]["inputs"]
    except (ValueError, KeyError, TypeError):
        raise LockError(
            f"{path} is not a lock of sources", "restore it from git, or lock again: `nox -s lock`"
        ) from None
    return locked
