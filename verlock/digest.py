"""The digest: one sha256 over all that makes a variant, for one Python. Receipts and certificates are bound to it.

It covers the locks less their comments, the bytes of the patches, and those parts of the recipe that act on the
environment. Prose, the cut-off (which acts on the locks alone) and what preflight asks of a machine are left out, so that
a better sentence makes no certificate stale. It is computed at every `verlock create`, so nothing heavy is imported here.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from verlock import project
from verlock.errors import LockError, RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCK_FILES = ("conda-lock.yml", "requirements.txt", "build-requirements.txt", "sources.json")
_REQUIRED = LOCK_FILES[:3]
_ACTING = ("vllm", "verl", "cuda", "sdist", "artefact", "source", "patch")
_PROSE = frozenset({"reason", "link", "why", "limits", "flags_reason", "subject", "date", "upstream", "upstream_link"})
_VERBATIM = frozenset({"environment", "llm"})  # the engine's own names, whatever they are


def of(variant: str, python: str | None = None) -> str:
    """The hex sha256 of one variant for one Python (its default one when None).

    Raises:
        RecipeError: recipe.toml is not TOML (whether it fits the model is `recipe.load`'s question).
        LockError: there is no lock for this Python.
    """
    folder = project.RECIPES / variant
    data = raw(variant)
    default = data["python"][0]
    python = python or default
    locks = project.lock_dir(variant, python, default)
    total = hashlib.sha256()
    for name in LOCK_FILES:
        path = locks / name
        if path.exists():
            _add(total, name, _without_comments(path.read_bytes()))
        elif name in _REQUIRED:
            raise LockError(
                f"{variant} has no {name} for Python {python}",
                f"`nox -s lock -- {variant}` makes it; or name another Python",
            )
    for patch in sorted(folder.glob("patches/*.patch")):
        _add(total, patch.name, patch.read_bytes())
    _add(total, "recipe", json.dumps(_acting(data, python), sort_keys=True, default=str).encode())
    return total.hexdigest()


def raw(variant: str) -> dict[str, Any]:
    """recipe.toml as it stands, not validated. Raises RecipeError when it is not TOML or has no `python`."""
    path = project.RECIPES / variant / "recipe.toml"
    try:
        data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        data["python"][0]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError):
        from verlock import recipe

        recipe.load(variant)  # says what is wrong
        raise RecipeError(f"recipes/{variant}/recipe.toml names no Python") from None
    return data


def _acting(data: dict[str, Any], python: str) -> dict[str, Any]:
    acting = {key: data[key] for key in _ACTING if key in data}
    acting["artefact"] = [item for item in data.get("artefact", []) if item.get("python") == python]
    return {key: _without_prose(value) for key, value in acting.items()}


def _without_prose(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: item if key in _VERBATIM else _without_prose(item) for key, item in value.items() if key not in _PROSE
        }
    if isinstance(value, list):
        return [_without_prose(item) for item in value]
    return value


def _without_comments(data: bytes) -> bytes:
    """The lines of a lock that say something to a machine."""
    return b"\n".join(line for line in data.splitlines() if line.strip() and not line.lstrip().startswith(b"#"))


def _add(total: Any, name: str, data: bytes) -> None:
    """Lengths go in first, so that no two sets of files can look alike."""
    total.update(f"{len(name)}:{name}:{len(data)}:".encode())
    total.update(data)


def of_file(path: Path) -> str:
    """The hex sha256 of one file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
