"""Patches: tell what each would do to a tree of files, apply it, and tell later whether it is still applied.

`git apply` decides, without fuzz and without the user's git configuration. It works on copies in a scratch folder; each
result is renamed over the installed file, which is a hardlink into uv's cache and must never be written through. A kill
between two renames leaves only complete files, and the lock's hashes (before and after, per file) tell the next run what
is left to do. The package's RECORD stays as its wheel wrote it: for patched files the lock's `after` is the truth.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock.errors import IntegrityError, NotSealed, PatchPartlyApplied, PatchRejected, StaleLock
from verlock.sources.git_apply import Stage, split
from verlock.sources.patch_states import Outcome as Outcome  # patches.Outcome is what callers compare with
from verlock.sources.patch_states import PatchFile, PatchState, by_hash, judge, shipped
from verlock.system import process
from verlock.system.files import sha256_if_there
from verlock.variant import lockfiles, receipt

if TYPE_CHECKING:
    from verlock.variant.chosen import Chosen
    from verlock.variant.recipe import Recipe

_DRAFT = ".verlock-draft"  # suffix of a file on its way into place; a killed run can leave one, the next removes it


# Reading -------------------------------------------------------------------------------------------


def read(recipe: Recipe) -> list[PatchFile]:
    """The recipe's patch files in their order.

    Raises:
        PatchRejected: a file is missing, is no unified diff in UTF-8, or creates, deletes or renames files.
    """
    found = []
    for patch in recipe.patch:
        path = recipe.patch_path(patch)
        try:
            data = path.read_bytes()
            text = data.decode("utf-8")
        except OSError:
            raise PatchRejected(
                f"{recipe.name}: there is no {path}", "recipe.toml must name the files of patches/"
            ) from None
        except UnicodeDecodeError as error:
            raise PatchRejected(f"{patch.file} is not text: {error}", "write it in UTF-8, or restore it") from None
        found.append(PatchFile(patch, data, tuple(split(text, patch.file))))
    return found


# Judging -------------------------------------------------------------------------------------------


def _chains(locked: dict[str, Any]) -> dict[str, list[str]]:
    """path -> its sha256 before any patch, after the first that touches it, after the second, and so on."""
    chains: dict[str, list[str]] = {}
    for entry in locked.get("patches", []):
        for touched in entry["touches"]:
            chains.setdefault(touched["path"], [touched["before"]]).append(touched["after"])
    return chains


def states(recipe: Recipe, root: Path, locked: dict[str, Any]) -> list[PatchState]:
    """The state of every patch of the recipe in the files below `root` (site-packages, or a source tree).

    Hashes decide where the lock knows a file's bytes; git is asked only about files that are neither the released nor the
    patched ones. Nothing is written.

    Args:
        recipe: the variant.
        root: the folder that holds the package's own folder.
        locked: the content of sources.json (`Chosen.sources`).
    """
    files = read(recipe)
    chains = _chains(locked)
    now = {path: sha256_if_there(root / path) for file in files for path in file.paths}
    seen: dict[str, int] = {}
    result: list[PatchState] = []
    with tempfile.TemporaryDirectory(prefix="verlock-patch-") as scratch:
        stage: Stage | None = None
        for file in files:
            there: dict[str, bool | None] = {}
            for path in file.paths:
                seen[path] = place = seen.get(path, 0) + 1
                known = now[path] in chains.get(path, [])
                there[path] = chains[path].index(str(now[path])) >= place if known else None
            if None not in there.values():
                result.append(by_hash(file, there))
                continue
            if stage is None:
                stage = Stage(root, list(now), Path(scratch))
            state = judge(stage, file, shipped(root, file.patch.package))
            if state.outcome is Outcome.APPLIES:  # a later patch may build on this one
                stage.run(file.data)
            result.append(state)
    return result


def show(chosen: Chosen) -> int:
    """Print what `verlock patches` shows: each patch, why, where upstream fixed it, and its state in the prefix. Returns 0."""
    recipe = chosen.recipe
    found: dict[str, PatchState] = {}
    try:
        editable = receipt.read(chosen.prefix)["editable"]
        where = [str(chosen.prefix), *(each["checkout"] for each in editable.values())]
        for root, packages in {
            chosen.site: {patch.package for patch in recipe.patch} - editable.keys(),
            **{Path(each["checkout"]): {package} for package, each in editable.items()},
        }.items():
            there = states(recipe, root, chosen.sources)
            found |= {each.patch.file: each for each in there if each.patch.package in packages}
    except NotSealed:
        where = [f"{chosen.prefix}, which is not built"]
    print(f"{recipe.name}: {recipe.summary}\nin {', '.join(where)}")
    for file in read(recipe):
        patch, state = file.patch, found.get(file.patch.file)
        print(f"\n{patch.file}" + (f"  [{state.outcome.value}]" if state else ""))
        if state and state.detail:
            print(f"  state     {state.detail}")
        print(f"  changes   {', '.join(file.paths)}")
        print(textwrap.fill(patch.why, 100, initial_indent="  why       ", subsequent_indent=" " * 12))
        if upstream := " ".join(filter(None, [patch.upstream, patch.upstream_link])):
            print(f"  upstream  {upstream}")
    if recipe.patch and recipe.source and not found:
        print("\nThese go into the wheel when it is built.")
    return 0


# Doing ---------------------------------------------------------------------------------------------


def apply(recipe: Recipe, root: Path, locked: dict[str, Any]) -> list[dict[str, Any]]:
    """Bring every patched file below `root` to the lock's `after`, and return the receipt's entries.

    Files that have it already are left alone, so a second run does nothing and a run after a kill finishes the work.

    Raises:
        StaleLock: a patch file is not the one that was locked.
        PatchRejected, PatchPartlyApplied: the files are neither the released nor the patched ones.
        IntegrityError: git's result is not the one from lock time.
        ToolMissing: there is no git.
    """
    files = as_locked(recipe, locked)
    chains = _chains(locked)
    for path in chains:
        (root / f"{path}{_DRAFT}").unlink(missing_ok=True)
    now = {path: sha256_if_there(root / path) for path in chains}
    if any(now[path] not in chain for path, chain in chains.items()):
        for state in states(recipe, root, locked):
            if not state.exact:
                raise _refusal(recipe, state)
    todo = {path for path, chain in chains.items() if now[path] != chain[-1]}
    if todo:
        with tempfile.TemporaryDirectory(prefix="verlock-patch-") as scratch:
            stage = Stage(root, sorted(todo), Path(scratch))
            done = {path: chains[path].index(str(now[path])) for path in todo}
            for file in files:
                _advance(stage, file, done)
            for path in sorted(todo):
                if (got := sha256_if_there(stage.scratch / path)) != chains[path][-1]:
                    raise IntegrityError.of(f"{path} as patched", chains[path][-1], got, "lock again: `nox -s lock`")
            _replace(root, stage.scratch, sorted(todo))
    return receipt_entries(recipe, locked)


def _advance(stage: Stage, file: PatchFile, ahead: dict[str, int]) -> None:
    """Apply a patch to the staged files that do not have it yet. `ahead`: how many more patches each file already has."""
    wanted = []
    for path in file.paths:
        if path in ahead:
            ahead[path] -= 1
            if ahead[path] < 0:
                wanted.append(path)
    if wanted and (said := stage.run(file.data, *(f"--include={path}" for path in wanted))):
        raise PatchRejected(
            f"{file.patch.file} does not apply to the file it was locked for\n  {said}", "this is a bug: report it"
        )


def _replace(root: Path, scratch: Path, paths: list[str]) -> None:
    """Rename each new file over the old one, with the old one's mode; then compile again the byte code that was there."""
    compiled = []
    for path in paths:
        target, draft = root / path, root / f"{path}{_DRAFT}"
        shutil.copyfile(scratch / path, draft)
        draft.chmod(target.stat().st_mode & 0o777)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        stale = list((target.parent / "__pycache__").glob(f"{target.stem}.*.pyc"))
        for old in stale:  # first: byte code compiled with unchecked hashes is used whatever its source says
            old.unlink()
        draft.replace(target)
        if stale:
            compiled.append(target)
    if compiled:
        _compile(root, compiled)


def _compile(root: Path, files: list[Path]) -> None:
    """Compile with the environment's own Python; where that does not run, Python compiles at the first import."""
    python = root.parents[2] / "bin" / "python" if len(root.parents) > 2 else root
    if python.exists():
        subprocess.run(
            [python, "-I", "-m", "compileall", "-q", *files],
            capture_output=True,
            check=False,
            env=process.COMPILE.environment(),
        )


def as_locked(recipe: Recipe, locked: dict[str, Any]) -> list[PatchFile]:
    """The recipe's patch files, if they are those of the lock. Raises StaleLock if not; PatchRejected as `read` does."""
    files = read(recipe)
    wanted = [(entry["file"], entry["sha256"]) for entry in locked.get("patches", [])]
    got = [(file.patch.file, file.sha256) for file in files]
    if wanted != got:
        changed = sorted({name for name, _ in set(wanted) ^ set(got)}) or ["their order"]
        raise StaleLock(
            f"{recipe.name}: patches changed after the lock was made: {', '.join(changed)}",
            f"lock again: `nox -s lock -- {recipe.name}`",
        )
    return files


def _refusal(recipe: Recipe, state: PatchState, locking: bool = False) -> PatchRejected | PatchPartlyApplied:
    """The error for a patch that cannot be applied in this state."""
    file, package = state.patch.file, state.patch.package
    remedy = f"the installed {package} is not the locked one: `nox -s env-{recipe.name}` rebuilds the environment"
    if locking:
        remedy = f"write the patch again, for the locked {package}"
    if state.outcome is Outcome.PARTLY:
        return PatchPartlyApplied(f"{file} is partly applied\n  {state.detail}", remedy)
    if state.outcome is Outcome.FIXED_UPSTREAM:
        fix = f" by {state.patch.upstream[:12]}" if state.patch.upstream else ""
        gone = f"remove the patch from recipe.toml: this {package} does not need it" if locking else remedy
        return PatchRejected(f"{file} is already fixed upstream{fix}: {state.detail}", gone)
    if state.outcome is Outcome.REJECTED:
        return PatchRejected(f"{file} does not apply: {state.detail}", remedy)
    return PatchRejected(f"{file} is {state.outcome.value}, {state.detail}", remedy)


def receipt_entries(recipe: Recipe, locked: dict[str, Any]) -> list[dict[str, Any]]:
    """What the receipt says about the patches: file, package, upstream fix, sha256 of the patch, files before and after.

    Raises StaleLock: the lock names other patches than the recipe.
    """
    if [patch.file for patch in recipe.patch] != [entry["file"] for entry in locked.get("patches", [])]:
        raise StaleLock(
            f"{recipe.name}: the recipe and the lock name different patches",
            f"lock again: `nox -s lock -- {recipe.name}`",
        )
    return [
        {"file": patch.file, "package": patch.package, "upstream": patch.upstream, **entry}
        for patch, entry in zip(recipe.patch, locked.get("patches", []), strict=True)
    ]


# Locking -------------------------------------------------------------------------------------------


def lock(chosen: Chosen) -> dict[str, Any]:
    """The content of sources.json: hashes of the patches, and of the files they touch, before and after.

    The released wheel comes from uv's cache or the index, as the variant's requirements.txt names it.

    Raises:
        PatchRejected: a patch does not apply to the locked release; the message says which state the patch is in.
    """
    from verlock.sources import wheel_store

    recipe = chosen.recipe
    with tempfile.TemporaryDirectory(prefix="verlock-lock-") as folder:
        site = Path(folder) / "site"
        for package in dict.fromkeys(patch.package for patch in recipe.patch):
            wheel_store.unpack(package, chosen.locks / lockfiles.REQUIREMENTS, chosen.python, site)
        return {"patches": measure(recipe, site) if recipe.patch else [], "wheel": None}


def measure(recipe: Recipe, root: Path, into: Path | None = None) -> list[dict[str, Any]]:
    """Apply every patch to copies of the files below `root` and hash them before and after: the lock's `patches`.

    Args:
        recipe: the variant.
        root: the tree the patches are for, as released; not written to.
        into: where the patched copies go (which may be `root` itself); nowhere when None.

    Raises:
        PatchRejected, PatchPartlyApplied: a patch does not apply.
    """
    files = read(recipe)
    entries = []
    with tempfile.TemporaryDirectory(prefix="verlock-patch-") as scratch:
        stage = Stage(root, list(dict.fromkeys(path for file in files for path in file.paths)), Path(scratch))
        for file in files:
            state = judge(stage, file, shipped(root, file.patch.package))
            if state.outcome is not Outcome.APPLIES:
                raise _refusal(recipe, state, locking=True)
            before = {path: sha256_if_there(stage.scratch / path) for path in file.paths}
            if said := stage.run(file.data):
                raise PatchRejected(f"{file.patch.file} does not apply\n  {said}")
            touches = [
                {"path": path, "before": before[path], "after": sha256_if_there(stage.scratch / path)}
                for path in file.paths
            ]
            entries.append({"file": file.patch.file, "sha256": file.sha256, "touches": touches})
        if into is not None:
            _replace(into, stage.scratch, list(dict.fromkeys(path for file in files for path in file.paths)))
    return entries
