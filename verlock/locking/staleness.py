"""Whether locks still match what people edit (`verlock lock --check`): offline, and well under a second for all.

Only content counts. The pip layer's lock carries a hash of its inputs in its header, conda-lock's own
content hash does the same for the conda layer, and the sources' lock names every patch by its sha256. Whether the rest of a
lock is what was made from those inputs is told by `locks/SHA256SUMS`; only a lock that has another sha256 is parsed, to say
what is wrong with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from verlock import console, paths
from verlock.errors import LockError, RecipeError, StaleLock, VerlockError
from verlock.locking import lock_inputs, sums
from verlock.system import files
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen, choose, names

if TYPE_CHECKING:
    from verlock.variant.recipe import Recipe

_INPUTS = re.compile(r"^# inputs (sha256:[0-9a-f]{64})$", re.MULTILINE)


def of(pythons: Sequence[Chosen]) -> dict[Path, str]:
    """The locks of a variant's Pythons that no longer match their inputs, with a sentence each; empty when all are current."""
    found: dict[Path, str] = {}
    for chosen in pythons:
        folder, recipe = chosen.locks, chosen.recipe
        complaints = {name: "is missing" for name in lockfiles.ALL if not (folder / name).exists()}
        sources_lock = folder / lockfiles.SOURCES
        if not recipe.patch and recipe.source is None:
            complaints.pop(lockfiles.SOURCES, None)
            if sources_lock.exists():
                complaints[lockfiles.SOURCES] = "is there, but the recipe has no patch and no source"
        elif sources_lock.exists() and (said := sources(recipe, sources_lock)):
            complaints[lockfiles.SOURCES] = said
        if (folder / lockfiles.CONDA_LOCK).exists() and conda(chosen, folder / lockfiles.CONDA_LOCK):
            complaints[lockfiles.CONDA_LOCK] = (
                "was made from other environment.yml files, or another [platform] or cutoff"
            )
        for name in (lockfiles.REQUIREMENTS, lockfiles.BUILD_REQUIREMENTS):
            path = folder / name
            if path.exists() and _written_inputs(path) != lock_inputs.input_digest(chosen, name):
                complaints[name] = (
                    "was made from other .in files, or another cutoff, python, platform, sdist or override"
                )
        if (folder / lockfiles.FILES).exists() and (said := _files(folder, complaints)):
            complaints[lockfiles.FILES] = said
        found.update((folder / name, complaints[name]) for name in lockfiles.ALL if name in complaints)
    return found


def _files(folder: Path, complaints: Container[str]) -> str | None:
    """What is wrong with a files.json as the list of the files of the locks beside it; None where those are wrong themselves."""
    try:
        locked = lockfiles.files(folder)
    except LockError:
        return "is not a list of locked files"
    there = [name for name in lockfiles.PIP_LAYER if name not in complaints]
    if any(locked[name]["sha256"] != files.sha256_if_there(folder / name) for name in there):
        return "was made from other pins"
    return None


def conda(chosen: Chosen, path: Path) -> bool:
    """Whether a conda-lock.yml has another content hash than its inputs have now."""
    match = re.search(r"^  content_hash:\n    linux-64: ([0-9a-f]{64})$", lockfiles.text_of(path), re.MULTILINE)
    return not match or match[1] != lock_inputs.conda_content_hash(chosen)


def _written_inputs(path: Path) -> str | None:
    match = _INPUTS.search(lockfiles.text_of(path))
    return match[1] if match else None


def sources(recipe: Recipe, path: Path) -> str | None:
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
        from verlock.sources import source_wheel

        if wheel is None or wheel.get("inputs") != source_wheel.inputs(recipe):
            return "names a wheel of another source, or of other patches"
    return None


def tools() -> dict[Path, str]:
    """The locks of verlock's own tools that no longer match their inputs, with a sentence each."""
    folder = paths.LOCKS / lockfiles.TOOLS
    found = {}
    for name in lock_inputs.tools_sets():
        path = folder / f"{name}.txt"
        if not path.exists() or not lockfiles.text_of(path).startswith(lock_inputs.tools_header(name)):
            found[path] = "is missing or was made from other .in files, another cut-off or another base set"
    orphans = sorted({path.stem for path in folder.glob("*.txt")} - {*lock_inputs.tools_sets()})
    return {**found, **{folder / f"{name}.txt": "belongs to no .in file" for name in orphans}}


def check(variants: Sequence[str] = ()) -> int:
    """Check that the locks of these variants (all when none is named) are current and whole. Returns 0; works offline.

    Raises:
        StaleLock: something is stale, missing or edited; every file is named.
        UnknownVariant, RecipeError, LockError: as `choose`; other variants are checked first.
    """
    listed = sums.read()
    found: dict[Path, str] = {}
    edited: dict[Path, str] = {}
    broken: list[VerlockError] = []
    named = list(variants) or [*names(), lockfiles.TOOLS]
    for variant in named:
        try:
            is_tools = variant == lockfiles.TOOLS
            chosen = [] if is_tools else choose(variant).pythons()
            for folder in [paths.LOCKS / variant] if is_tools else [each.locks for each in chosen]:
                for path in sums.locks_in(folder):
                    if not sums.has(listed, path):
                        found[path] = f"has no line in locks/{sums.NAME}"
                    elif not sums.written(listed, path):
                        edited[path] = _edit(path)
            found = {**found, **(tools() if is_tools else of(chosen))}
        except (RecipeError, LockError) as error:
            broken.append(error)
    if not variants:
        gone = [paths.LOCKS / name for name in listed if not (paths.LOCKS / name).exists()]
        found = {**dict.fromkeys(gone, f"is missing, and locks/{sums.NAME} names it"), **found, **_orphans()}
    for path in edited:  # of a lock that was edited, nothing else can be told; nor whether files.json is of it
        found.pop(path.with_name(lockfiles.FILES), None)
    found.update(edited)
    if found:
        lines = [f"{paths.shown(path)} {said}" for path, said in found.items()]
        remedy = "`nox -s lock` makes them current"
        if edited:
            remedy = f"{lockfiles.restore(*edited)}; then `nox -s lock` makes current what is not"
        problem = "\n  ".join(["these locks are not current:", *lines, *(error.problem for error in broken)])
        raise StaleLock(problem, remedy)
    if broken:
        raise broken[0]
    console.say(f"locks are current: {', '.join(named)}")
    return 0


def _edit(path: Path) -> str:
    """What is wrong with a lock that is not what `verlock lock` wrote: what does not parse, if anything does not."""
    try:
        if path.name == lockfiles.CONDA_LOCK:
            lockfiles.conda_packages(path)
        elif path.name == lockfiles.SOURCES:
            lockfiles.sources(path.parent)
        elif path.name == lockfiles.FILES:
            lockfiles.files(path.parent)
        elif path.parent.name != lockfiles.TOOLS:  # a set of tools may pin a package twice, for two Pythons
            lockfiles.pins(path)
    except LockError as error:
        return f"was edited: {error.problem.removeprefix(paths.shown(path)).lstrip(',: ')}"
    return f"was edited: its sha256 is not the one in locks/{sums.NAME}"


def _orphans() -> dict[Path, str]:
    """What belongs to no recipe, or to no Python of one: folders of locks/, and patch files."""
    known = {paths.LOCKS / lockfiles.TOOLS}
    variants = names()
    for variant in variants:
        try:
            known |= {
                paths.LOCKS / variant,
                *(chosen.locks for chosen in choose(variant).pythons()),
            }
        except RecipeError:
            known |= {paths.LOCKS / variant, *(paths.LOCKS / variant).glob("py*")}
    folders = [path for path in (*paths.LOCKS.glob("*/"), *paths.LOCKS.glob("*/*/")) if path.is_dir()]
    orphans = sorted(folder for folder in folders if folder not in known)
    orphans += [path for path in sorted(paths.RECIPES.glob("*/patches/*")) if path.parts[-3] not in variants]
    return dict.fromkeys(orphans, "belongs to no recipe")
