"""The generated parts of the pages: their names, what makes each, and how they get into a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from docs.make import commands, errors, figures, variables, variants
from verlock import paths

DOCS = paths.ROOT / "docs"

BLOCKS: dict[str, Callable[[], str]] = {
    "commands": commands.all_commands,
    "sessions": commands.sessions,
    "exit codes": errors.table_of_codes,
    "messages": errors.messages,
    "variables": variables.table_of_variables,
    "kept out": variables.kept_out,
    "status": variants.status_table,
    "limits": variants.limits,
    "variants": variants.sections,
    "training": variants.training,
    "upgrading": variants.upgrading,
    "hosts": variants.hosts,
    "proof": figures.proof,
    "launches": figures.launches,
    "verl steps": figures.verl_steps,
    "sabotage": figures.sabotages,
    "create": figures.create,
    "lock times": figures.lock_times,
    "rollouts": figures.rollouts,
}

_BLOCK = re.compile(r"(?P<begin><!-- generated: (?P<name>[\w ]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page of docs/, in the order of their paths."""
    return sorted(DOCS.rglob("*.md"))


def filled(text: str) -> str:
    """A page with all its generated parts as they are today. Raises KeyError for a name that is not in BLOCKS."""
    return _BLOCK.sub(lambda found: f"{found['begin']}{BLOCKS[found['name']]().strip()}\n{found['end']}", text)


def stale() -> dict[Path, str]:
    """The pages that are not current, with the text that they should have."""
    today = {page: page.read_text(encoding="utf-8") for page in pages()}
    return {page: new for page, text in today.items() if (new := filled(text)) != text}
