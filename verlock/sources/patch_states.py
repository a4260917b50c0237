"""The five states of a patch: decided by the lock's hashes where they can tell, else by git."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from verlock.sources.git_apply import Hunk, Stage
from verlock.system.files import sha256_if_there
from verlock.variant import lockfiles, record

if TYPE_CHECKING:
    from verlock.variant.recipe import Patch


class Outcome(enum.Enum):
    """The state of a patch in a tree of files. The value is what `verlock patches` shows."""

    APPLIES = "not applied"
    APPLIED = "applied"
    FIXED_UPSTREAM = "already fixed upstream"
    PARTLY = "partly applied"
    REJECTED = "does not apply"


@dataclass(frozen=True)
class PatchFile:
    """A patch file, read and split."""

    patch: Patch
    data: bytes
    hunks: tuple[Hunk, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files it changes, relative to the folder that holds the package."""
        return tuple(dict.fromkeys(hunk.path for hunk in self.hunks))

    @property
    def sha256(self) -> str:
        """Of the patch file itself."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class PatchState:
    """The state of one patch in one tree, with its details."""

    patch: Patch
    outcome: Outcome
    detail: str = ""
    touches: tuple[str, ...] = ()
    exact: bool = field(default=True)  # every touched file has one of the lock's two hashes


def by_hash(file: PatchFile, there: dict[str, bool | None]) -> PatchState:
    """The state by the lock's hashes. `there`: path -> whether the file has this patch already."""
    if all(there.values()):
        return PatchState(file.patch, Outcome.APPLIED, "", file.paths)
    if not any(there.values()):
        return PatchState(file.patch, Outcome.APPLIES, "", file.paths)
    done, left = ([path for path in there if there[path] is side] for side in (True, False))
    return PatchState(file.patch, Outcome.PARTLY, f"there: {', '.join(done)}; not there: {', '.join(left)}", file.paths)


def judge(stage: Stage, file: PatchFile, shipped: dict[str, str]) -> PatchState:
    """The state by `git apply`, where the lock's hashes cannot tell."""

    def state(outcome: Outcome, detail: str) -> PatchState:
        return PatchState(file.patch, outcome, detail, file.paths, exact=False)

    if absent := [path for path in file.paths if path in stage.missing]:
        return state(Outcome.REJECTED, f"{absent[0]} is not there")
    if stage.holds(file.data):
        if shipped and all(sha256_if_there(stage.root / path) == shipped.get(path) for path in file.paths):
            return state(Outcome.FIXED_UPSTREAM, f"{file.patch.package} was released with this text")
        return state(Outcome.APPLIED, "but the rest of the file is not what the lock names")
    if stage.fits(file.data):
        return state(Outcome.APPLIES, "and the file is not what the lock names")
    there = [hunk for hunk in file.hunks if stage.holds(hunk.text.encode())]
    open_ = [hunk for hunk in file.hunks if hunk not in there and stage.fits(hunk.text.encode())]
    stray = [hunk for hunk in file.hunks if hunk not in there and hunk not in open_]
    if stray:
        return state(Outcome.REJECTED, _shown(stray[0], stage))
    return state(Outcome.PARTLY, f"there: {_named(there)}; not there: {_named(open_)}")


def _named(hunks: Sequence[Hunk]) -> str:
    return ", ".join(str(hunk) for hunk in hunks)


def _shown(hunk: Hunk, stage: Stage) -> str:
    """The hunk that does not fit, and the text found in its place."""
    lines = (stage.scratch / hunk.path).read_text(encoding="utf-8", errors="replace").splitlines()
    length = sum(line[:1] in " -" for line in hunk.body.splitlines()[1:])
    met = lines[hunk.line - 1 : hunk.line - 1 + length]
    return "\n".join(
        [f"hunk {hunk}", *(f"    {line}" for line in hunk.body.splitlines()), "  met", *(f"    {line}" for line in met)]
    )


def shipped(root: Path, package: str) -> dict[str, str]:
    """path -> hex sha256 from the installed package's RECORD; empty where there is no RECORD (a source tree)."""
    for folder in root.glob("*.dist-info"):
        if lockfiles.normalise(folder.name.split("-")[0]) == lockfiles.normalise(package):
            with (folder / record.NAME).open(encoding="utf-8", newline="") as file:
                return {row.path: row.sha256 for row in record.rows(file) if row.sha256}
    return {}
