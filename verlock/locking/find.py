"""`verlock find`: which variant is nearest to a paper's stack, or to a version of a package.

A name is looked for in `recipes/papers.toml`, a package and a version in the locks of each variant's first Python.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verlock import console, paths
from verlock.errors import NothingFound, RecipeError, VerlockError
from verlock.locking import lock_diff
from verlock.variant import lockfiles, recipe_file
from verlock.variant.chosen import choose, names
from verlock.variant.recipe import Link

NAME = "papers.toml"
SHOWN = 3  # variants of an answer that is not exact
MAIN = ("vllm", "verl", "torch", "transformers")  # what tells one variant from another, in a line for people
_VERSION = re.compile(r"v?\d+(\.\w+)*([+-]\S+)?")

Pins = dict[str, dict[str, str]]  # variant -> package -> version


class Paper(BaseModel):
    """A paper or project, and what a file of its own says of versions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    also: list[str] = Field(default=[], description="other names that people look for")
    says: str = Field(description="what the file names, for people")
    link: Link = Field(description="the file, at the commit at which it was read")
    read: date
    stack: dict[str, str] = Field(description="package -> version, as far as the file names one")
    variant: str = Field(default="", description="the nearest variant; empty where none is near")
    near: str = Field(description="how near, for people")


class File(BaseModel):
    """The whole of papers.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: list[Paper]


@dataclass(frozen=True)
class Match:
    """A variant that has a package at some version, and how near that is to the one asked for."""

    variant: str
    version: str
    near: str
    exact: bool = False


def run(words: Sequence[str]) -> int:
    """Print the answer for `dapo`, `vllm 0.8.2`, `transformers==4.51`, `transformers` or `0.8.2`; returns 0.

    Raises NothingFound where neither papers.toml nor a lock has it, RecipeError where papers.toml is broken.
    """
    asked = re.sub(r"==?", " ", " ".join(words)).split()
    locked = pins()
    lines = [line for paper in _papers(" ".join(asked)) for line in told(paper, locked)]
    if not lines and asked:
        lines = _of_locks(asked, locked)
    if not lines:
        raise _nothing(" ".join(words), locked)
    print("\n".join(lines))
    return 0


def read() -> list[Paper]:
    """All of recipes/papers.toml. Raises RecipeError."""
    path = paths.RECIPES / NAME
    try:
        return File.model_validate(recipe_file.toml(path)).paper
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{paths.shown(path)}: {where}: {first['msg']}", lockfiles.restore(path)) from None


def pins() -> Pins:
    """The versions in the pip layer of each variant's first Python, with the version of a source build.

    A variant that is broken, or not locked, is left out with a warning.
    """
    found: Pins = {}
    for name in names():
        try:
            chosen = choose(name)
            found[name] = {pin.name: pin.version for pin in chosen.pins}
        except VerlockError as error:
            console.warn(f"{name} is left out: {error.problem}")
            continue
        if source := chosen.data.get("source"):
            found[name][lockfiles.normalise(source["package"])] = source["version"]
    return found


def told(paper: Paper, locked: Pins) -> list[str]:
    """What is known of a paper, in lines."""
    lines = [paper.name, f"  says     {paper.says}", f"  seen     {paper.link} ({paper.read})"]
    lines.append(f"  nearest  {paper.variant or 'none'}: {paper.near}")
    if paper.variant in locked:
        here = locked[paper.variant]
        parts = []
        for package, version in paper.stack.items():
            own = here.get(package, "none")
            parts.append(f"{package} {version} ({'the same' if own == version else f'here {own}'})")
        lines += [f"  compared {', '.join(parts)}", f"  make it  nox -s env-{paper.variant}"]
    return [*lines, ""]


def matches(package: str, version: str, locked: Pins) -> list[Match]:
    """The variants with this package: those that have the version (or one that begins with it), else the nearest few."""
    have = {variant: found[package] for variant, found in locked.items() if package in found}
    asked = release(version)
    exact = [
        Match(variant, each, "the same" if each == version else f"a {version}", exact=True)
        for variant, each in have.items()
        if each == version or release(each)[: len(asked)] == asked
    ]
    ranked = sorted(have, key=lambda variant: (_distance(asked, release(have[variant])), variant))
    return exact or [Match(variant, have[variant], _how(asked, release(have[variant]))) for variant in ranked[:SHOWN]]


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: 0.8.5.post1 -> (0, 8, 5)."""
    return tuple(int(part) for part in re.match(r"v?((?:\d+\.?)*)", version)[1].split(".") if part)  # type: ignore[index]


def _distance(asked: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """A key that sorts versions by how near they are: the first number in which they differ decides, then who is next to it."""
    length = max(len(asked), len(other))
    one, two = ((*each, *[0] * (length - len(each))) for each in (asked, other))
    same = next((place for place in range(length) if one[place] != two[place]), length)
    beyond = two[same + 1 :] if two > one else tuple(-number for number in two[same + 1 :])
    return (-same, *(abs(one[place] - two[place]) for place in (same,) if place < length), *beyond)


def _how(asked: tuple[int, ...], other: tuple[int, ...]) -> str:
    if asked[:2] == other[:2]:
        return f"the same {'.'.join(map(str, asked[:2]))}"
    return f"{'an older' if other < asked else 'a newer'} release"


def _of_locks(asked: Sequence[str], locked: Pins) -> list[str]:
    """The answer for a package and a version, for a package alone (all its versions), or for a version of vLLM or verl alone."""
    first, *rest = asked
    if _VERSION.fullmatch(first) and not rest:
        found = {package: matches(package, first, locked) for package in ("vllm", "verl")}
        exact = {package: each for package, each in found.items() if each and each[0].exact} or {"vllm": found["vllm"]}
        return [line for package, each in exact.items() for line in _lines(package, first, each, locked)]
    package = lockfiles.normalise(first)
    if not any(package in found for found in locked.values()) or len(rest) > 1:
        return []
    if rest and _VERSION.fullmatch(rest[0]):
        return _lines(package, rest[0], matches(package, rest[0], locked), locked)
    by_version = sorted(
        ((found[package], variant) for variant, found in locked.items() if package in found), key=_order
    )
    return [f"{variant:<10} {package} {version}" for version, variant in by_version] if not rest else []


def _order(pair: tuple[str, str]) -> tuple[Any, str]:
    return lock_diff.order(pair[0]), pair[1]


def _lines(package: str, version: str, found: Sequence[Match], locked: Pins) -> list[str]:
    lines = [f"{package} {version}"]
    for each in found:
        others = ", ".join(
            f"{name} {locked[each.variant][name]}" for name in MAIN if name in locked[each.variant] and name != package
        )
        lines.append(f"  {each.variant:<10} {package} {each.version}, {each.near}; {others}")
    return lines


def _papers(text: str) -> list[Paper]:
    """The papers one of whose names holds this text, whatever its case and its hyphens."""
    wanted = _plain(text)
    return [
        paper
        for paper in read()
        if len(wanted) > 1 and any(wanted in _plain(name) for name in (paper.name, *paper.also))
    ]


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _nothing(text: str, locked: Mapping[str, Mapping[str, str]]) -> NothingFound:
    known = [paper.name for paper in read()]
    packages = sorted({package for found in locked.values() for package in found})
    near = difflib.get_close_matches(text, known, n=3) + difflib.get_close_matches(
        text.partition(" ")[0], packages, n=3
    )
    return NothingFound(
        f"nothing here is called {text!r}: no paper of recipes/{NAME}, and no package of a lock",
        f"did you mean {' or '.join(near)}?"
        if near
        else f"the papers are {', '.join(known)}; of a package, name a version too",
    )
