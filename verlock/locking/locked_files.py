"""files.json beside each lock: of each package of the pip layer the one file that the locked platform takes.

A requirements.txt holds the hashes of all files of a release that may be installed. Which of them an environment takes, how large
it is and when it was uploaded stands here, for whoever has to fetch or name the files without an index at hand. It is outside
the digest, since it follows from the pins and the platform. It names no host: who needs an address asks the user's own index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

from verlock.errors import ResolverDisagreement
from verlock.locking import wheel_tags
from verlock.locking.loopback_index import File, Index
from verlock.system import files
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen
from verlock.variant.lockfiles import Pin


def taken(pin: Pin, offered: Sequence[File], ranks: dict[Tag, int]) -> File:
    """The file of a pin that the platform takes: its best wheel, or its sdist where the lock names no wheel.

    Args:
        pin: the hashes of the files that may be installed.
        offered: what the index has of the package.
        ranks: as `wheel_tags.supported` gives them.

    Raises ResolverDisagreement where no file of the pin fits.
    """
    named = [file for file in offered if f"sha256:{file.sha256}" in pin.hashes]
    if wheels := [file for file in named if file.filename.endswith(".whl")]:
        ranked = [(rank, file.filename, file) for file in wheels if (rank := _rank(file.filename, ranks)) is not None]
    else:
        ranked = [((0, 0), file.filename, file) for file in named]
    if not ranked:
        raise ResolverDisagreement(
            f"the index has no file of {pin.name} {pin.version} that is locked and fits the platform",
            "lock again, or against another mirror",
        )
    return min(ranked, key=lambda each: each[:2])[2]


def _rank(filename: str, ranks: dict[Tag, int]) -> tuple[int, int] | None:
    """How good a wheel is, the lower the better: by its tags, then the higher build number; None where it does not fit."""
    _, _, build, own = parse_wheel_filename(filename)
    fitting = [ranks[tag] for tag in own if tag in ranks]
    return (min(fitting), -build[0] if build else 0) if fitting else None


def text(chosen: Chosen, folder: Path, index: Index) -> str:
    """The text of files.json for the pip layer's locks in `folder`.

    Raises ResolverDisagreement (as `taken`, or where the index says no size or upload time) and NetworkError.
    """
    ranks = wheel_tags.supported(chosen.python, chosen.recipe.platform.glibc)
    parts = []
    for name in lockfiles.PIP_LAYER:
        lines = [json.dumps(_entry(pin, taken(pin, index.files(pin.name), ranks))) for pin in _pins(folder / name)]
        listed = ",\n".join(f"   {line}" for line in lines)
        head = f' "{name}": {{\n  "sha256": "{files.sha256(folder / name)}",\n  "files": ['
        parts.append(f"{head}\n{listed}\n  ]\n }}" if lines else f"{head}]\n }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _pins(path: Path) -> list[Pin]:
    return sorted(lockfiles.pins(path), key=lambda pin: pin.name)


def _entry(pin: Pin, file: File) -> dict[str, Any]:
    if file.size is None or file.uploaded is None:
        raise ResolverDisagreement(
            f"the index says no size or no upload time of {file.filename}",
            "lock against an index that has them (PEP 700)",
        )
    return {
        "package": pin.name,
        "version": pin.version,
        "filename": file.filename,
        "size": file.size,
        "sha256": file.sha256,
        "uploaded": file.uploaded.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
