"""A recipe as plain data: `recipes/<variant>/recipe.toml` and the files of `recipes/common/` that it includes, as one table.

A table such as [cuda] stands in exactly one of these files; of a list such as [[patch]] every file may hold a part, and the
parts follow each other in the order of `include`, the recipe's own last. Nothing is validated here (`verlock.variant.recipe` does
that), and nothing slow is imported, for a run that finds nothing to do reads the recipe too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "recipe.toml"
COMMON = "common"
INCLUDE = "include"


def read(path: Path) -> dict[str, Any]:
    """The recipe at `path` (`.../recipes/<variant>/recipe.toml`) with what it includes, not validated.

    Raises:
        RecipeError: a file is missing or not TOML, includes what is not there, or repeats a table of another one.
    """
    own = toml(path)
    parts = [(file, toml(file)) for file in _included(path, own.get(INCLUDE, []))]
    merged: dict[str, Any] = {}
    origin: dict[str, Path] = {}
    for file, data in [*parts, (path, own)]:
        for key, value in data.items():
            if key not in merged:
                merged[key], origin[key] = value, file
            elif _tables(value) and _tables(merged[key]):
                merged[key] = [*merged[key], *value]
            else:
                raise RecipeError(
                    f"{paths.shown(file)} has {key}, and so has {paths.shown(origin[key])}",
                    "let it stand in one of the two",
                )
    return merged


def _included(path: Path, names: Any) -> list[Path]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{paths.shown(path)}: include must be a list of names", f"those of recipes/{COMMON}/*.toml")
    common = path.parent.parent / COMMON
    there = {file.stem: file for file in sorted(common.glob("*.toml"))}
    for name in names:
        if name not in there:
            raise RecipeError(
                f"{paths.shown(path)} includes {name!r}, which is not there",
                f"recipes/{COMMON}/ has {', '.join(there)}",
            )
    return [there[name] for name in names]


def _tables(value: Any) -> bool:
    """Is this a list of tables, such as [[patch]], to which another file may add?"""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain data. Raises RecipeError, naming the file, when it cannot be read."""
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{paths.shown(path)} cannot be read: {error.strerror}", "restore it from git") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{paths.shown(path)} is not TOML: {error}", "fix the line named above") from None
    return data
