"""Artefacts from outside the index, such as flash-attn's release wheels: by URL and sha256, kept by sha256."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from verlock import console, paths
from verlock.errors import IntegrityError, NetworkError
from verlock.system import files

if TYPE_CHECKING:  # `create` asks `reachable` at every run of an incomplete environment
    from verlock.variant.recipe import ArtefactFile

_PATIENCE = 10  # seconds without a byte
_REACHABLE_SECONDS = 3.0


def filename(url: str) -> str:
    """The file name in a URL, with %2B and the like decoded: pip and uv read version and tags from it."""
    return urllib.parse.unquote(url.rsplit("/", 1)[1])


def reachable(url: str, sha256: str) -> bool:
    """Could `fetch` have the file now? Nothing is downloaded, and a host that does not answer costs a few seconds at most."""
    name = filename(url)
    mirror = os.environ.get("VERLOCK_ARTEFACTS", "")
    if _kept(name, sha256).exists() or (mirror and "://" not in mirror and (Path(mirror) / name).exists()):
        return True
    try:
        request = urllib.request.Request(_remote(url, name, mirror), method="HEAD")
        with urllib.request.urlopen(request, timeout=_REACHABLE_SECONDS):
            return True
    except (OSError, http.client.HTTPException, ValueError):
        return False


def fetch(file: ArtefactFile, tell: Callable[[str], None] = lambda text: None) -> Path:
    """The verified file, from the cache, else a local folder or mirror (`VERLOCK_ARTEFACTS`), else its URL.

    `VERLOCK_ARTEFACTS` is a folder or a base URL under which the file lies by its name.

    Args:
        file: which file.
        tell: called now and then with how much was fetched, such as "120 of 256 MB" (without "of" where the host does not say).

    Raises:
        NetworkError: no place has it, or it was cut off on its way; names the host.
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
        _copy(file, name, draft, tell)
        if (got := files.sha256(draft)) != file.sha256:
            raise IntegrityError.of(
                name, f"sha256:{file.sha256}", f"sha256:{got}", "the file was replaced where it came from"
            )
        draft.replace(kept)
    finally:
        draft.unlink(missing_ok=True)
    return kept


def _kept(name: str, sha256: str) -> Path:
    return paths.cache_dir() / "artefacts" / sha256 / name


def _remote(url: str, name: str, mirror: str) -> str:
    return f"{mirror.rstrip('/')}/{urllib.parse.quote(name)}" if "://" in mirror else url


def _copy(file: ArtefactFile, name: str, draft: Path, tell: Callable[[str], None]) -> None:
    mirror = os.environ.get("VERLOCK_ARTEFACTS", "")
    if mirror and "://" not in mirror:
        local = Path(mirror) / name
        if local.exists():
            shutil.copyfile(local, draft)
            return
    url = _remote(file.url, name, mirror)
    with draft.open("wb") as out:
        try:
            answer = urllib.request.urlopen(url, timeout=_PATIENCE)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _no_answer(url, name, error) from None
        with answer:
            length = answer.headers.get("Content-Length")
            whole = int(length) if length and length.isdigit() else None
            done = 0
            while block := _read(answer, url, name):
                out.write(block)  # a full disk is no matter of the network: it has an error of its own
                done += len(block)
                tell(f"{done / 1e6:.0f} of {whole / 1e6:.0f} MB" if whole else f"{done / 1e6:.0f} MB")
    if whole is not None and done < whole:  # an early close looks like an end to urllib
        raise _no_answer(url, name, OSError(f"the connection ended after {done} of {whole} bytes"))


def _read(answer: http.client.HTTPResponse, url: str, name: str) -> bytes:
    try:
        return answer.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(url, name, error) from None


def _no_answer(url: str, name: str, error: Exception) -> NetworkError:
    try:
        host = urllib.parse.urlsplit(url).netloc or url
    except ValueError:  # VERLOCK_ARTEFACTS is no address
        host = url
    return NetworkError(
        f"{host} does not give {name}: {getattr(error, 'reason', error)}",
        "put the file into a folder and name that folder in VERLOCK_ARTEFACTS",
    )
