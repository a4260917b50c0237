"""Artefacts from outside the index, such as flash-attn's release wheels: by URL and sha256, kept by sha256."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from verlock import console, paths
from verlock.system import download, files

if TYPE_CHECKING:  # `create` asks `reachable` at every run of an incomplete environment
    from verlock.variant.recipe import ArtefactFile


def filename(url: str) -> str:
    """The file name in a URL, with %2B and the like decoded: pip and uv read version and tags from it."""
    return urllib.parse.unquote(url.rsplit("/", 1)[1])


def reachable(url: str, sha256: str) -> bool:
    """Could `fetch` have the file now? Nothing is downloaded, and hosts that do not answer cost 3 seconds at most."""
    name = filename(url)
    if _kept(name, sha256).exists():
        return True
    places = [*download.users_places(name), url]
    local = any(place.is_file() for place in places if isinstance(place, Path))
    return local or download.reachable(place for place in places if isinstance(place, str))


def fetch(file: ArtefactFile, tell: Callable[[str], None] = lambda text: None) -> Path:
    """The verified file: from the cache, else the user's folder or mirror (`VERLOCK_ARTEFACTS`), else its URL.

    `VERLOCK_ARTEFACTS` is a folder or a base URL under which the file lies by its name; one that does not have it is passed over.

    Args:
        file: which file.
        tell: called now and then with how much was fetched, such as "120 of 256 MB" (without "of" where the host does not say).

    Raises:
        NetworkError: no place has it, or it was cut off on its way; names the hosts.
        IntegrityError: its sha256 is not the recipe's; nothing is kept.
    """
    name = filename(file.url)
    kept = _kept(name, file.sha256)
    if kept.exists():
        if files.sha256(kept) == file.sha256:
            return kept
        console.warn(f"{kept} is damaged and is fetched again")
        kept.unlink()
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f".{name}.{os.getpid()}")
    try:
        download.fetch_first([*download.users_places(name), file.url], draft, file.sha256, tell)
        draft.replace(kept)
    finally:
        draft.unlink(missing_ok=True)
    return kept


def _kept(name: str, sha256: str) -> Path:
    return paths.cache_dir() / "artefacts" / sha256 / name
