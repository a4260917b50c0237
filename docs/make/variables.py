"""The variables of the shell: those that verlock reads (docs/variables.toml), and those that it keeps out of an environment."""

from __future__ import annotations

import sys
from typing import Any

from docs.make.markdown import code, sentence, table, words
from verlock import paths
from verlock.system import process

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = paths.ROOT / "docs" / "variables.toml"


def known() -> dict[str, Any]:
    """docs/variables.toml: `group`s of variables, and `internal` ones, which are not for users."""
    found: dict[str, Any] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return found


def table_of_variables() -> str:
    """A table of variables for each group."""
    parts = []
    for group in known()["group"]:
        rows = [
            (", ".join(map(code, each["names"])), words(each["means"]), words(each.get("default", "")))
            for each in group["variable"]
        ]
        parts.append(f"### {group['title']}\n\n{table(('variable', 'meaning', 'if it is not set'), rows)}")
    return "\n\n".join(parts)


def kept_out() -> str:
    """A table of what a program inside an environment does not get from your shell, and why."""
    by_reason: dict[str, list[str]] = {}
    for pattern, why in process.VARIANT.drops.items():
        by_reason.setdefault(why, []).append(code(pattern))
    rows = [(", ".join(patterns), sentence(why)) for why, patterns in by_reason.items()]
    return table(("variables", "why they are kept out"), rows)
