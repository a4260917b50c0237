"""What changed between two states of locks/: `verlock diff`, and the end of every `verlock lock`.

A package that is added or removed, or that moves up or down, is normal news. The same version with other bytes is an alarm,
since that is what a replaced artefact looks like, and it is shown as an alarm.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import LockError
from verlock.variant import lockfiles

ADDED, REMOVED, UP, DOWN, REBUILT, REHASHED = "added", "removed", "up", "down", "rebuilt", "re-hashed"
_LAYERS = {
    lockfiles.CONDA_LOCK: "conda",
    lockfiles.REQUIREMENTS: "pip",
    lockfiles.BUILD_REQUIREMENTS: "build",
    lockfiles.SOURCES: "sources",
}
_WHOLE = 20  # if a layer's only changes are more than this many packages added (or removed), one line says so
_STYLES = {
    ADDED: "green",
    REMOVED: "yellow",
    UP: "cyan",
    DOWN: "magenta",
    REBUILT: "cyan",
    REHASHED: "bold white on red",
}


@dataclass(frozen=True)
class Entry:
    """One package of one layer; `build` tells conda's builds of one version apart."""

    version: str
    hashes: frozenset[str]
    build: str = ""


@dataclass(frozen=True)
class Change:
    """One line of a diff. `lock` is a folder below locks/, `old` and `new` are versions, empty where there is none."""

    lock: str
    layer: str
    package: str
    kind: str
    old: str
    new: str


Layer = dict[str, Entry]
Tree = dict[tuple[str, str], Layer]  # (folder below locks/, layer) -> packages


def run(revisions: Sequence[str] = (), *, markdown: bool = False) -> int:
    """Show what changed in locks/ from one git revision to another; by default from HEAD to the working tree.

    Returns 0. Raises LockError for an unknown revision or a lock that cannot be read.
    """
    if len(revisions) > 2:
        raise LockError("diff takes two revisions at most", "name one, and the working tree is compared with it")
    old = tree(revision=revisions[0] if revisions else "HEAD")
    new = tree(revision=revisions[1] if len(revisions) > 1 else None)
    changes = compare(old, new)
    if markdown:
        print(as_markdown(changes) or "No lock changed.")
    else:
        show(changes, empty="no lock changed", error_stream=False)
    return 0


def tree(folder: Path | None = None, *, revision: str | None = None) -> Tree:
    """Read all locks: of a git revision, else below `folder` (the clone's locks/ when None)."""
    found: Tree = {}
    for name, text in _files(folder or paths.LOCKS, revision).items():
        place, _, file = name.rpartition("/")
        if place:
            found[place, _layer(name)] = _read(file, text, f"{revision or 'locks'}: {name}")
    return found


def _layer(name: str) -> str:
    """The layer that a file below locks/ holds, empty if none; each further set of verlock's own tools is a layer."""
    place, _, file = name.rpartition("/")
    further = file.removesuffix(".txt") if place == lockfiles.TOOLS and file.endswith(".txt") else ""
    return _LAYERS.get(file, further)


def _files(folder: Path, revision: str | None) -> dict[str, str]:
    """The text of every lock by its path below locks/."""
    if revision is None:
        files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*"))}
        return {name: lockfiles.text_of(file) for name, file in files.items() if _layer(name)}
    import git

    try:
        commit = git.Repo(paths.ROOT).commit(revision)
    except (git.BadName, git.InvalidGitRepositoryError, ValueError) as error:
        raise LockError(f"there is no revision {revision!r}: {error}", "name a commit, a branch or a tag") from None
    try:
        top = commit.tree / "locks"
    except KeyError:
        return {}
    blobs = {str(item.path).removeprefix("locks/"): item for item in top.traverse() if isinstance(item, git.Blob)}
    return {name: blob.data_stream.read().decode(errors="replace") for name, blob in blobs.items() if _layer(name)}


def _read(file: str, text: str, title: str) -> Layer:
    try:
        if file == lockfiles.CONDA_LOCK:
            return _read_conda(lockfiles.read_yaml(text))
        return _read_sources(json.loads(text)) if file == lockfiles.SOURCES else _read_pins(text, title)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{title} cannot be read: {error!r}", "restore it from git") from None


def _read_conda(content: Any) -> Layer:
    return {
        item["name"]: Entry(
            item["version"], frozenset([item["hash"].get("sha256", "")]), item["url"].rpartition("/")[2]
        )
        for item in content["package"]
    }


def _read_sources(content: Any) -> Layer:
    layer = {item["file"]: Entry("", frozenset([item["sha256"]])) for item in content["patches"]}
    if wheel := content.get("wheel"):
        layer[wheel["filename"].partition("-")[0]] = Entry(wheel["commit"][:12], frozenset([wheel["sha256"]]))
    return layer


def _read_pins(text: str, title: str) -> Layer:
    """Versions and hashes; a package that a universal lock pins twice has both versions."""
    layer: Layer = {}
    pin = re.compile(r"^(\S+?)==(\S+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}[^\n]*)*)", re.MULTILINE)
    for name, version, block in pin.findall(text):
        known = layer.get(name, Entry("", frozenset()))
        both = f"{known.version}, {version}" if known.version else version
        layer[name] = Entry(both, known.hashes | frozenset(re.findall(r"sha256:([0-9a-f]{64})", block)))
    if not layer and re.search(r"^\w", text, re.MULTILINE):
        raise LockError(f"{title} holds no pins", "is it a lock at all?")
    return layer


def compare(old: Mapping[tuple[str, str], Layer], new: Mapping[tuple[str, str], Layer]) -> list[Change]:
    """All changes, by lock, layer and package."""
    changes: list[Change] = []
    for place, layer in sorted({*old, *new}):
        before, after = old.get((place, layer), {}), new.get((place, layer), {})
        for package in sorted({*before, *after}):
            was, now = before.get(package), after.get(package)
            if kind := _kind(was, now):
                changes.append(
                    Change(place, layer, package, kind, was.version if was else "", now.version if now else "")
                )
    return changes


def _kind(was: Entry | None, now: Entry | None) -> str | None:
    if was is None:
        return ADDED
    if now is None:
        return REMOVED
    if was.version != now.version:
        return UP if order(now.version) > order(was.version) else DOWN
    if was.build != now.build:
        return REBUILT
    return REHASHED if was.hashes != now.hashes else None


def order(version: str) -> tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]:
    """A key that sorts versions of conda and pip alike: numbers by value, 1.0rc1 before 1.0, 1.1.1w after 1.1.1."""
    numbers, rest = re.fullmatch(r"(?:\d+!)?v?((?:\d+(?:[._]\d+)*)?)(.*)", version.lower().partition("+")[0]).groups()  # type: ignore[union-attr]
    release = [int(part) for part in re.findall(r"\d+", numbers)]
    while release and release[-1] == 0:
        release.pop()
    ranks = {"dev": -4, "a": -3, "alpha": -3, "b": -2, "beta": -2, "c": -1, "rc": -1}
    parts = re.findall(r"\d+|[a-z]+", rest)
    suffix = [(0, int(part), "") if part.isdigit() else (ranks.get(part, 1), 0, part) for part in parts]
    return tuple(release), (*suffix, (0, 0, ""))


def show(changes: Sequence[Change], *, empty: str, error_stream: bool = True) -> None:
    """Print a diff as a table, re-hashed packages first and loudest; `empty` is what it prints if nothing changed."""
    from rich.console import Console
    from rich.table import Table

    stream = sys.stderr if error_stream else sys.stdout
    screen = Console(file=stream, highlight=False, width=None if stream.isatty() else 120)
    if not changes:
        screen.print(empty)
        return
    if alarms := [change for change in changes if change.kind == REHASHED and change.layer != "sources"]:
        screen.print(
            f"[{_STYLES[REHASHED]}] RE-HASHED [/] same version, other bytes: an artefact was replaced, added or withdrawn"
        )
        for change in alarms:
            screen.print(f"  {change.lock} {change.layer} {change.package} {change.new}")
    table = Table("lock", "layer", "package", "change", "from", "to", box=None, pad_edge=False)
    for place, layer, listed in _by_layer(changes):
        if len({change.kind for change in listed}) == 1 and listed[0].kind in (ADDED, REMOVED) and len(listed) > _WHOLE:
            table.add_row(
                place, layer, f"{len(listed)} packages", f"[{_STYLES[listed[0].kind]}]{listed[0].kind}[/]", "", ""
            )
            continue
        for number, change in enumerate(listed):
            kind = f"[{_STYLES[change.kind]}]{change.kind}[/]"
            table.add_row(
                "" if number else place, "" if number else layer, change.package, kind, change.old, change.new
            )
    screen.print(table)
    counts = [f"{count} {kind}" for kind in _STYLES if (count := sum(change.kind == kind for change in changes))]
    screen.print(", ".join(counts))


def _by_layer(changes: Sequence[Change]) -> list[tuple[str, str, list[Change]]]:
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.lock, change.layer), []).append(change)
    return [(*key, listed) for key, listed in groups.items()]


def as_markdown(changes: Sequence[Change]) -> str:
    """A diff as Markdown for CHANGELOG.md: a list for each lock, re-hashed packages in bold."""
    lines: list[str] = []
    for place in dict.fromkeys(change.lock for change in changes):
        lines.append(f"- `{place}`")
        for _, layer, listed in _by_layer([change for change in changes if change.lock == place]):
            suffix = "" if layer == "pip" else f" ({layer})"
            if (
                len({change.kind for change in listed}) == 1
                and listed[0].kind in (ADDED, REMOVED)
                and len(listed) > _WHOLE
            ):
                lines.append(f"  - {len(listed)} packages {listed[0].kind}{suffix}")
            else:
                lines += [f"  - {_sentence(change)}{suffix}" for change in listed]
    return "\n".join(lines)


def _sentence(change: Change) -> str:
    name = f"`{change.package}`"
    if change.kind in (UP, DOWN):
        return f"{name} {change.old} → {change.new}" + (" (down)" if change.kind == DOWN else "")
    if change.kind == REHASHED:
        return f"**{name} {change.new} re-hashed: same version, other bytes**"
    return f"{name} {change.new or change.old} {change.kind}".replace("  ", " ")
