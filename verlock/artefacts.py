"""Artefacts from outside the index, such as flash-attn's release wheels: by URL, size and sha256, kept by sha256."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from verlock import project
from verlock.digest import of_file
from verlock.errors import IntegrityError, NetworkError
from verlock.recipe import Artefact

_PATIENCE = 10  # seconds without a byte


def filename(artefact: Artefact) -> str:
    """The file name in its URL, with %2B and the like decoded: pip and uv read version and tags from it."""
    return urllib.parse.unquote(artefact.url.rsplit("/", 1)[1])


def fetch(artefact: Artefact) -> Path:
    """The verified file, from the cache, else a local folder or mirror (`VERLOCK_ARTEFACTS`), else its URL.

    `VERLOCK_ARTEFACTS` is a folder or a base URL under which the file lies by its name.

    Raises:
        NetworkError: it is nowhere to be had; names the host.
        IntegrityError: size or sha256 differ from the recipe; nothing is kept.
    """
    name = filename(artefact)
    kept = project.cache_dir() / "artefacts" / artefact.sha256 / name
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f".{name}.{os.getpid()}")
    try:
        _copy(artefact, name, draft)
        _verify(artefact, draft)
        draft.replace(kept)
    finally:
        draft.unlink(missing_ok=True)
    return kept


def _copy(artefact: Artefact, name: str, draft: Path) -> None:
    mirror = os.environ.get("VERLOCK_ARTEFACTS", "")
    if mirror and "://" not in mirror:
        local = Path(mirror) / name
        if local.exists():
            shutil.copyfile(local, draft)
            return
    url = f"{mirror.rstrip('/')}/{urllib.parse.quote(name)}" if "://" in mirror else artefact.url
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer, draft.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise NetworkError(
            f"{urllib.parse.urlsplit(url).netloc} does not give {name}: {reason}",
            "put the file into a folder and name that folder in VERLOCK_ARTEFACTS",
        ) from None


def _verify(artefact: Artefact, file: Path) -> None:
    size = file.stat().st_size
    if artefact.size is not None and size != artefact.size:
        raise IntegrityError.of(f"{filename(artefact)} (size)", f"{artefact.size} bytes", f"{size} bytes", "try again")
    got = of_file(file)
    if got != artefact.sha256:
        raise IntegrityError.of(
            filename(artefact), f"sha256:{artefact.sha256}", f"sha256:{got}", "the file was replaced where it came from"
        )
