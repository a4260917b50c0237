"""A package with a few files replaced, put first on PYTHONPATH: the installed one stays as it is. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def make(package: Path, replaced: Mapping[str, str], into: Path) -> Path:
    """Build `into/<package name>` from symbolic links to the installed files, except for those replaced.

    Args:
        package: the installed package's folder.
        replaced: relative path -> new text. Every path must exist in the package.
        into: the caller's folder; this is the one to put on PYTHONPATH.

    Returns:
        The overlay's package folder.
    """
    for path in replaced:
        if not (package / path).is_file():
            raise FileNotFoundError(package / path)
    root = into / package.name
    _link(package, root, {Path(path): text for path, text in replaced.items()})
    return root


def _link(source: Path, target: Path, replaced: Mapping[Path, str]) -> None:
    target.mkdir(parents=True)
    inside = {path.parts[0] for path in replaced if len(path.parts) > 1}
    for entry in source.iterdir():
        if entry.name == "__pycache__":
            continue
        if Path(entry.name) in replaced:
            (target / entry.name).write_text(replaced[Path(entry.name)], encoding="utf-8")
        elif entry.name in inside:
            below = {
                path.relative_to(entry.name): text for path, text in replaced.items() if path.parts[0] == entry.name
            }
            _link(entry, target / entry.name, below)
        else:
            (target / entry.name).symlink_to(entry)
