"""The manifest of a bundle, `manifest.json` in its folder: every file with its sha256, and what each variant takes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verlock.errors import BundleRefused
from verlock.variant.shape import EACH, fits

NAME = "manifest.json"
PARTS = "parts.json"  # in its place where the bundle is in parts
SCHEMA = 1
# the folders of a bundle
WHEELS, ARTEFACTS, SITE, CONDA, PYTHON, SOURCES, TOOLS = (
    "wheels",
    "artefacts",
    "site",
    "conda",
    "python",
    "sources",
    "tools",
)
_TAKEN = {
    "digest": str,
    "base": str,  # conda or host
    # of a base that is the host's: the archive, and the sha256 of the program and its library by their paths in it
    "python": (None, {"file": str, "version": str, "sha256": str, "programs": {EACH: str}}),
    "source": (None, str),  # the archive of a git source
    "site_wheels": {EACH: str},  # package -> path in the bundle
    "missing": [str],  # artefacts that are not in the bundle; why would differ from one machine to another
}
SHAPE = {
    "schema": int,
    "commit": str,
    "repository": str,
    "tools": [str],  # the Pythons that verlock's tools are there for
    "variants": {EACH: {EACH: _TAKEN}},  # variant -> Python -> what it takes
    "files": [{"path": str, "size": int, "sha256": str, "for": [str]}],
}


def read(bundle: Path) -> dict[str, Any]:
    """The manifest of the bundle in a folder. Raises BundleRefused where there is none, or none that this verlock reads."""
    if (bundle / PARTS).exists():
        raise BundleRefused(f"{bundle} is a bundle in parts", f"put it together: `{bundle}/verlock join --to FOLDER`")
    try:
        content: dict[str, Any] = json.loads((bundle / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleRefused(f"{bundle} is no finished bundle", f"it has no {NAME}, which is written last") from None
    except (ValueError, UnicodeDecodeError):
        content = {}
    if not fits(content, SHAPE) or content["schema"] != SCHEMA:
        raise BundleRefused(f"{bundle / NAME} is damaged, or another verlock's", "copy the bundle here again")
    return content


def text(content: dict[str, Any]) -> str:
    """A manifest as it is written."""
    return json.dumps({"schema": SCHEMA, **content}, indent=1, sort_keys=True) + "\n"
