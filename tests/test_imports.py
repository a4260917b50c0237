"""Imports run one way: the order of the folders is written in verlock/__init__.py, and no module stands in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import verlock
from verlock import paths

CODE = paths.ROOT / "verlock"
INSIDE = {"smoke": ("smoke",), "bench": ("bench", "smoke")}  # what runs inside an environment imports nothing else


def modules(code: Path = CODE) -> dict[str, Path]:
    """Every module by its dotted name below verlock, such as `system.files`; a package by its folder's."""
    found = {}
    for path in sorted(code.rglob("*.py")):
        parts = path.relative_to(code).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> list[tuple[int, str]]:
    """Line and dotted name of every module of verlock that a file imports, at its top, in a function, or for types alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == "verlock":
                inner = name.partition(".")[2]
                while inner and inner not in known:  # `verlock.system.files.sha256` imports `system.files`
                    inner = inner.rpartition(".")[0]
                found.append((node.lineno, inner))
    return found


def back_imports(code: Path = CODE) -> list[str]:
    """Every import of what comes later, as file, line and what it imports."""
    known = modules(code)
    found = []
    for name, path in known.items():
        own = name.partition(".")[0]
        if own in ("", "__main__"):
            continue
        for line, imported in imports(path, known):
            target = imported.partition(".")[0]
            if not target:
                continue
            late = verlock.ORDER.index(target) > verlock.ORDER.index(own)
            if late or target not in INSIDE.get(own, (target,)):
                found.append(f"{path.relative_to(code.parent)}:{line} imports {imported}")
    return found


def test_every_module_has_its_place_in_the_order():
    tops = {name.partition(".")[0] for name in modules()} - {"", "__main__"}
    assert tops == set(verlock.ORDER)


def test_no_folder_imports_from_a_later_one():
    assert back_imports() == []


@pytest.mark.parametrize(
    ("place", "line", "said"),
    [
        ("system/files.py", "from verlock.variant import recipe", "imports variant.recipe"),
        ("variant/digest.py", "def late():\n    from verlock import cli", "imports cli"),
        ("sources/patches.py", "import verlock.env.create", "imports env.create"),
        ("smoke/gates.py", "from verlock.errors import GateFailed", "imports errors"),
        ("bench/floor.py", "from verlock import console", "imports console"),
    ],
)
def test_a_planted_back_import_is_named_with_file_and_line(tmp_path, place, line, said):
    for name, path in modules().items():
        copy = tmp_path / "verlock" / path.relative_to(CODE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text() + (f"\n{line}\n" if path == CODE / place else ""), encoding="utf-8")
        assert name or copy.name == "__init__.py"
    (found,) = back_imports(tmp_path / "verlock")
    length = len((tmp_path / "verlock" / place).read_text().splitlines())
    assert found == f"verlock/{place}:{length} {said}"


def test_no_module_stands_in_a_circle():
    known = modules()
    needs = {
        name: {inner for _, inner in imports(path, known) if inner and inner != name} for name, path in known.items()
    }
    while leaves := [name for name, wanted in needs.items() if not wanted & needs.keys()]:
        for name in leaves:
            del needs[name]
    assert sorted(needs) == []
