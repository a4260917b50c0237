"""Reading locks: pins, headers and inputs; and whether a lock still belongs to what people edit (`verlock lock --check`).

Nothing here needs a network or an import that takes long: `create` reads pins on every run, and `--check` answers for all
variants in well under a second. Staleness is a matter of content alone. The pip layer's lock carries a hash of its inputs in its
header, conda-lock's own content hash does the same for the conda layer, and the sources' lock names every patch by its sha256.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import project
from verlock.errors import LockError, RecipeError, StaleLock, VerlockError

if TYPE_CHECKING:
    from verlock.recipe import Recipe

CONDA_LOCK = "conda-lock.yml"
REQUIREMENTS = "requirements.txt"
BUILD_REQUIREMENTS = "build-requirements.txt"
SOURCES = "sources.json"
ALL = (CONDA_LOCK, REQUIREMENTS, BUILD_REQUIREMENTS, SOURCES)
TOOLS = "tools"

_PIN = re.compile(r"^(?P<name>[A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)\s*(?:;(?P<marker>[^\\]*))?$")
_HASH = re.compile(r"^--hash=(sha256:[0-9a-f]{64})$")
_INPUTS = re.compile(r"^# inputs (sha256:[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True)
class Pin:
    """One line of the pip layer: `name` is normalised, `hashes` are `sha256:<hex>`, `via` is who asks for it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""
    via: tuple[str, ...] = ()


def normalise(name: str) -> str:
    """A distribution's name as the packaging standards compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path, *, hashed: bool = True) -> list[Pin]:
    """The pins of a requirements.txt in pip-tools' format.

    Raises:
        LockError: the file is missing, or a line (whose number is given) is no pin, has no hash or appears twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LockError(f"{shown(path)} is missing", "make it with `nox -s lock`") from None
    found: dict[str, Pin] = {}
    for number, text, via in _entries(lines):
        words = text.split("--hash=")
        match = _PIN.match(words[0].strip())
        if not match:
            raise LockError(
                f"{shown(path)}, line {number}: not a pin: {words[0].strip()!r}", "make it again with `nox -s lock`"
            )
        hashes = []
        for word in words[1:]:
            one = _HASH.match(f"--hash={word.strip()}")
            if not one:
                raise LockError(f"{shown(path)}, line {number}: not a sha256: {word.strip()!r}", "only sha256 is taken")
            hashes.append(one[1])
        name = normalise(match["name"])
        if hashed and not hashes:
            raise LockError(f"{shown(path)}, line {number}: {name} has no hash", "make it again with `nox -s lock`")
        if name in found:
            raise LockError(f"{shown(path)}, line {number}: {name} is there twice", "make it again with `nox -s lock`")
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


def shown(path: Path) -> str:
    """A path as messages show it: within the clone, relative to it."""
    return str(path.relative_to(project.ROOT)) if path.is_relative_to(project.ROOT) else str(path)


def read_yaml(text: str) -> Any:
    """Parse YAML with libyaml where there is one, which is ten times as quick. Raises ValueError when it is not YAML."""
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


# check -----------------------------------------------------------------------------------------------


def stale(recipe: Recipe) -> list[str]:
    """What of a variant's locks no longer belongs to its inputs, a sentence each; empty when all is current."""
    from verlock import inputs

    found: list[str] = []
    for python in recipe.python:
        folder = recipe.lock_dir(python)
        complaints = {name: f"{shown(folder / name)} is missing" for name in ALL if not (folder / name).exists()}
        if not recipe.patch and recipe.source is None:
            complaints.pop(SOURCES, None)
            if (folder / SOURCES).exists():
                complaints[SOURCES] = f"{shown(folder / SOURCES)} is there, but the recipe has no patch and no source"
        elif (folder / SOURCES).exists() and (said := stale_sources(recipe, folder / SOURCES)):
            complaints[SOURCES] = f"{shown(folder / SOURCES)} {said}"
        if (folder / CONDA_LOCK).exists() and stale_conda(recipe, python, folder / CONDA_LOCK):
            complaints[CONDA_LOCK] = (
                f"{shown(folder / CONDA_LOCK)} was made from other environment.yml files or another [platform]"
            )
        for name in (REQUIREMENTS, BUILD_REQUIREMENTS):
            path = folder / name
            if path.exists() and _written_inputs(path) != inputs.input_digest(recipe, python, name):
                complaints[name] = (
                    f"{shown(path)} was made from other .in files, or another cutoff, python, platform or sdist"
                )
        found += [complaints[name] for name in ALL if name in complaints]
    return found


def stale_conda(recipe: Recipe, python: str, path: Path) -> bool:
    """Whether a conda-lock.yml carries another content hash than its inputs have now."""
    from verlock import inputs

    match = re.search(
        r"^  content_hash:\n    linux-64: ([0-9a-f]{64})$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    return not match or match[1] != inputs.conda_content_hash(recipe, python)


def _written_inputs(path: Path) -> str | None:
    match = _INPUTS.search(path.read_text(encoding="utf-8"))
    return match[1] if match else None


def stale_sources(recipe: Recipe, path: Path) -> str | None:
    """What is wrong with a sources.json as the lock of this recipe, or None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        locked = [(item["file"], item["sha256"]) for item in content["patches"]]
        wheel = content["wheel"]
    except (ValueError, KeyError, TypeError):
        return "is not a lock of sources"
    there = [(patch.file, recipe.patch_path(patch)) for patch in recipe.patch]
    if locked != [(name, hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in there if file.is_file()]:
        return "does not name the patches of the recipe, or not as they are now"
    if recipe.source is not None:
        from verlock import build

        if wheel is None or wheel.get("inputs") != build.inputs(recipe):
            return "names a wheel of another source, or of other patches"
    return None


def check(variants: Sequence[str] = ()) -> int:
    """Are the locks of these variants (all when none is named) current? Returns 0; offline, and for people and CI.

    Raises:
        StaleLock: something is stale or missing; every file is named.
        UnknownVariant, RecipeError: as `recipe.load`; other variants are looked at first.
    """
    from verlock import console, inputs, recipe

    found: list[str] = []
    broken: list[VerlockError] = []
    named = list(variants) or [*recipe.names(), TOOLS]
    for variant in named:
        if variant == TOOLS:
            path = project.LOCKS / TOOLS / REQUIREMENTS
            if not path.exists() or not path.read_text(encoding="utf-8").startswith(inputs.tools_header()):
                found.append(f"{shown(path)} is missing or was made from other .in files, or another cut-off")
            continue
        try:
            found += stale(recipe.load(variant))
        except (RecipeError, LockError) as error:
            broken.append(error)
    if not variants:
        found += _orphans()
    if found:
        lines = [*found, *(error.problem for error in broken)]
        raise StaleLock("these locks are stale:\n  " + "\n  ".join(lines), "`nox -s lock` makes them current")
    if broken:
        raise broken[0]
    console.say(f"locks are current: {', '.join(named)}")
    return 0


def _orphans() -> list[str]:
    """Folders of locks/ that belong to no recipe, or to no Python of one."""
    from verlock import recipe

    known = {project.LOCKS / TOOLS}
    for variant in recipe.names():
        try:
            known |= {
                project.LOCKS / variant,
                *(recipe.load(variant).lock_dir(python) for python in recipe.load(variant).python),
            }
        except RecipeError:
            known |= {project.LOCKS / variant, *(project.LOCKS / variant).glob("py*")}
    folders = [path for path in (*project.LOCKS.glob("*/"), *project.LOCKS.glob("*/*/")) if path.is_dir()]
    return [f"{shown(folder)} belongs to no recipe" for folder in sorted(folders) if folder not in known]
