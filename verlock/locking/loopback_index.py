"""The package index that pip's resolver uses while locking: on the loopback, and fast.

If the index offers a wheel's metadata as a file beside the wheel, pip reads that file. If not, pip downloads the whole wheel: for
these environments that is 3 GB for each lock. This server stands between pip and the index. A project's page is fetched once
for all locks of a run; a wheel's metadata is read out of it with two range requests, and kept forever under the wheel's sha256.
Upload times are passed on unchanged, so that pip itself leaves out what is newer than the cut-off. A resolver that knows only
this address ignores the index of the machine's pip configuration, and cannot write an index's name into a lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from verlock import paths
from verlock.errors import NetworkError, ResolutionError
from verlock.system import files, loopback

JSON = "application/vnd.pypi.simple.v1+json"
_SECONDS = 60.0
_TAIL = 64 * 1024  # bytes; the central directory of nearly every wheel fits


def upstream() -> str:
    """The simple index this machine's user has chosen: uv's or pip's setting, else pip's own default.

    Only the address of the main index is taken; extra indexes and find-links never take part in a lock.
    """
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if value := os.environ.get(name):
            return value.rpartition("=")[2].rstrip("/") if "=" in value.partition("://")[0] else value.rstrip("/")
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False
    )
    if asked.returncode == 0 and asked.stdout.strip():
        return asked.stdout.strip().rstrip("/")
    from pip._internal.models.index import PyPI

    return str(PyPI.simple_url).rstrip("/")


@dataclass(frozen=True)
class File:
    """One file of a project: its sha256 in hex, and when it was uploaded (None where the index does not say)."""

    filename: str
    url: str
    sha256: str
    uploaded: datetime | None
    metadata_url: str | None


@dataclass
class Index:
    """A running loopback index; use `serve`."""

    source: str
    cache: Path
    url: str = ""
    _session: Any = None
    _pages: dict[str, Future[dict[str, Any]]] = field(default_factory=dict)
    _files: dict[str, File] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8))

    def files(self, name: str) -> list[File]:
        """The files of a project (its normalised name) that have a sha256; empty when the index does not know it."""
        page = self.page(name)
        return [self._files[item["hashes"]["sha256"]] for item in page["files"] if "sha256" in item.get("hashes", {})]

    def prefetch(self, names: list[str]) -> None:
        """Start to fetch these projects' pages, several at a time."""
        for name in names:
            self._page_future(name)

    def page(self, name: str) -> dict[str, Any]:
        """A project's page as JSON, with file URLs pointing here. Raises NetworkError; an unknown project has no files."""
        return self._page_future(name).result()

    def metadata(self, sha256: str) -> bytes:
        """The METADATA of a wheel that some page named. Raises KeyError, NetworkError."""
        kept = self.cache / sha256[:2] / sha256
        with contextlib.suppress(FileNotFoundError):
            return kept.read_bytes()
        file = self._files[sha256]
        text = self._get(file.metadata_url).content if file.metadata_url else self._out_of_wheel(file)
        files.write_whole(kept, bytes(text))
        return bytes(text)

    def location(self, sha256: str) -> str:
        """The URL of a file that some page named. Raises KeyError."""
        return self._files[sha256].url

    def _page_future(self, name: str) -> Future[dict[str, Any]]:
        with self._lock:
            if name not in self._pages:
                self._pages[name] = self._pool.submit(self._fetch_page, name)
            return self._pages[name]

    def _fetch_page(self, name: str) -> dict[str, Any]:
        address = f"{self.source}/{name}/"
        answer = self._get(address, {"Accept": JSON}, missing_is_fine=True)
        if answer.status_code == 404:
            return {"meta": {"api-version": "1.1"}, "name": name, "files": [], "versions": []}
        if JSON.rpartition("+")[0] not in answer.headers.get("Content-Type", ""):
            raise ResolutionError(
                f"{_host(self.source)} has no JSON pages and so no upload times, and a cut-off needs them",
                "lock against an index that has them (PEP 700); installing works from any mirror",
            )
        page: dict[str, Any] = answer.json()
        for item in page["files"]:
            sha256 = item.get("hashes", {}).get("sha256")
            if not sha256:
                continue
            url = urljoin(answer.url, item["url"])
            offered = item.pop("core-metadata", False) or item.pop("data-dist-info-metadata", False)
            self._files[sha256] = File(
                item["filename"], url, sha256, _moment(item.get("upload-time")), f"{url}.metadata" if offered else None
            )
            item.pop("data-dist-info-metadata", None)
            item["url"] = f"{self.url}/files/{sha256}/{item['filename']}"
            item["core-metadata"] = item["filename"].endswith(".whl")
        return page

    def _get(self, url: str, headers: dict[str, str] | None = None, *, missing_is_fine: bool = False) -> Any:
        import requests

        try:
            answer = self._session.get(url, headers=headers, timeout=_SECONDS)
            if not (missing_is_fine and answer.status_code == 404):
                answer.raise_for_status()
        except requests.RequestException as error:
            raise NetworkError(
                f"{_host(url)} does not answer: {error}", "check the network, or set PIP_INDEX_URL"
            ) from None
        return answer

    def _out_of_wheel(self, file: File) -> bytes:
        with zipfile.ZipFile(_Ranges(self, file.url)) as wheel:
            name = next(
                name for name in wheel.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
            )
            return wheel.read(name)


class _Ranges(io.RawIOBase):
    """A remote file, read in ranges, the first of which is its end."""

    def __init__(self, index: Index, url: str) -> None:
        self._index, self._url, self._position = index, url, 0
        answer = index._get(url, {"Range": f"bytes=-{_TAIL}", "Accept-Encoding": "identity"})
        self._blocks: list[tuple[int, bytes]] = []
        if answer.status_code == 206:
            self._size = int(answer.headers["Content-Range"].rpartition("/")[2])
            self._blocks.append((self._size - len(answer.content), answer.content))
        else:  # a server without ranges sent all of it
            self._size = len(answer.content)
            self._blocks.append((0, answer.content))

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        start = self._position
        stop = self._size if size < 0 else min(self._size, start + size)
        if stop <= start:
            return b""
        for begin, block in self._blocks:
            if begin <= start and stop <= begin + len(block):
                self._position = stop
                return block[start - begin : stop - begin]
        last = min(self._size, max(stop, start + _TAIL)) - 1
        answer = self._index._get(self._url, {"Range": f"bytes={start}-{last}", "Accept-Encoding": "identity"})
        self._blocks.append((start, answer.content))
        self._position = stop
        return bytes(answer.content[: stop - start])


class _Handler(loopback.Handler):
    def __init__(self, index: Index, *args: Any) -> None:
        self._index = index
        super().__init__(*args)

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        try:
            if parts[0] == "simple" and len(parts) == 2:
                self._send(json.dumps(self._index.page(parts[1])).encode(), JSON)
            elif parts[0] == "files" and parts[-1].endswith(".metadata"):
                self._send(self._index.metadata(parts[1]), "text/plain")
            elif parts[0] == "files":
                self.answer(302, Location=self._index.location(parts[1]))
            else:
                self.send_error(404)
        except (KeyError, StopIteration):
            self.send_error(404)
        except (NetworkError, ResolutionError) as error:
            self.send_error(502, error.problem.replace("\n", " ")[:200])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send(self, body: bytes, kind: str) -> None:
        self.answer(200, body, Content_Type=kind, ETag=f'"{hashlib.sha256(body).hexdigest()}"')


@contextlib.contextmanager
def serve(source: str | None = None) -> Iterator[Index]:
    """Run a loopback index in front of `source` (`upstream()` when None); its simple pages are at `url + "/simple"`."""
    import requests

    session = requests.Session()
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=16, max_retries=2))
    if certificate := os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE"):
        session.verify = certificate
    index = Index((source or upstream()).rstrip("/"), paths.cache_dir() / "metadata", _session=session)
    try:
        with loopback.serve(partial(_Handler, index)) as index.url:
            yield index
    finally:
        index._pool.shutdown(wait=False, cancel_futures=True)
        session.close()


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _moment(text: str | None) -> datetime | None:
    """An upload time of an index page, such as 2025-04-02T17:33:04.463369Z."""
    if not text:
        return None
    moment = datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))  # 3.10 reads some fractions only
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
