"""The package index that pip's resolver uses while locking: on the loopback, and fast.

If the index offers a wheel's metadata as a file beside the wheel, pip reads that file. If not, pip downloads the whole wheel: for
these environments that is 3 GB for each lock. This server stands between pip and the index. A project's page is fetched once
for all locks of a run; a wheel's metadata is read out of it with two range requests, and kept forever under the wheel's sha256.
Upload times are passed on unchanged, so that pip itself leaves out what is newer than the cut-off. A resolver that knows only
this address ignores the index of the machine's pip configuration, and cannot write an index's name into a lock.

A view (`Index.view`) is the same index, but the metadata of some packages lack the requirements that a recipe sets aside: for
both resolvers, so that each resolves all else by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from packaging.requirements import InvalidRequirement, Requirement

from verlock import paths
from verlock.errors import NetworkError, ResolutionError
from verlock.system import addresses, download, files, loopback, package_index
from verlock.variant import lockfiles

if TYPE_CHECKING:
    from verlock.variant.recipe import Override

JSON = "application/vnd.pypi.simple.v1+json"
_METADATA = re.compile(rb"Metadata-Version:\s*\d", re.IGNORECASE)
_TAIL = 64 * 1024  # bytes; the central directory of nearly every wheel fits


@dataclass(frozen=True)
class File:
    """One file of a project: its sha256 in hex; size in bytes and upload time are None where the index does not say them."""

    filename: str
    url: str
    sha256: str
    uploaded: datetime | None
    metadata_url: str | None
    metadata_sha256: str = ""  # "" where the index offers the metadata, but does not say its hash
    size: int | None = None


@dataclass
class Index:
    """A running loopback index; use `serve`. Its plain pages are at `view(())`."""

    source: str
    cache: Path
    url: str = ""
    _session: Any = None
    _pages: dict[str, Future[dict[str, Any]]] = field(default_factory=dict)
    _files: dict[str, File] = field(default_factory=dict)
    _views: dict[str, tuple[Override, ...]] = field(default_factory=dict)
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

    def view(self, overrides: Sequence[Override]) -> str:
        """The address of the simple index in which these requirements are set aside."""
        if not overrides:
            return f"{self.url}/simple"
        facts = sorted([each.requirer, each.requirement] for each in overrides)
        name = f"without-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]}"
        self._views[name] = tuple(overrides)
        return f"{self.url}/{name}/simple"

    def page_in(self, view: str, name: str) -> dict[str, Any]:
        """As `page`, with file URLs that lead to the metadata of the view of this name."""
        page, own = self.page(name), f"{self.url}/{view}"
        listed = [{**item, "url": item["url"].replace(self.url, own, 1)} for item in page["files"]]
        return {**page, "files": listed}

    def metadata_in(self, view: str, sha256: str) -> bytes:
        """As `metadata`, without what the view of this name sets aside. Raises KeyError where there is no such view."""
        text = self.metadata(sha256)
        project = lockfiles.normalise(self._files[sha256].filename.partition("-")[0])
        aside = [each.requirement for each in self._views[view] if lockfiles.normalise(each.requirer) == project]
        return without(text, aside)

    def metadata(self, sha256: str) -> bytes:
        """The METADATA of a wheel that some page named. Raises KeyError, NetworkError."""
        kept = self.cache / sha256[:2] / sha256
        with contextlib.suppress(FileNotFoundError):
            if _METADATA.match(text := kept.read_bytes()):
                return text  # else a web page, which an earlier verlock took for metadata
        file = self._files[sha256]
        if file.metadata_url:
            with contextlib.suppress(NetworkError):  # the wheel has it too
                text = bytes(download.get(self._session, file.metadata_url).content)
                if file.metadata_sha256 and hashlib.sha256(text).hexdigest() == file.metadata_sha256:
                    files.write_whole(kept, text)
                    return text
                if not file.metadata_sha256 and _METADATA.match(text):
                    return text  # nobody vouches for it: good for this run, and not kept
        text = self._out_of_wheel(file)
        files.write_whole(kept, text)
        return text

    def location(self, sha256: str) -> str:
        """The URL of a file that some page named, with the index's credentials where it is on the same host. Raises KeyError."""
        return addresses.as_at(self._files[sha256].url, self.source)

    def _page_future(self, name: str) -> Future[dict[str, Any]]:
        with self._lock:
            if name not in self._pages:
                self._pages[name] = self._pool.submit(self._fetch_page, name)
            return self._pages[name]

    def _fetch_page(self, name: str) -> dict[str, Any]:
        address = f"{self.source}/{name}/"
        answer = download.get(self._session, address, {"Accept": JSON}, page_is_fine=True)
        if answer.status_code == 404:
            return {"meta": {"api-version": "1.1"}, "name": name, "files": [], "versions": []}
        if JSON.rpartition("+")[0] not in answer.headers.get("Content-Type", ""):
            raise ResolutionError(
                f"{addresses.host(self.source)} has no JSON pages and so no upload times, and a cut-off needs them",
                "lock against an index that has them (PEP 700); installing works from any mirror",
            )
        page: dict[str, Any] = answer.json()
        for item in page["files"]:
            sha256 = item.get("hashes", {}).get("sha256")
            if not sha256:
                continue
            url = addresses.as_at(urljoin(answer.url, item["url"]), self.source)
            offered = item.pop("core-metadata", False) or item.get("data-dist-info-metadata", False)
            self._files[sha256] = File(
                item["filename"],
                url,
                sha256,
                _moment(item.get("upload-time")),
                f"{url}.metadata" if offered else None,
                offered.get("sha256", "") if isinstance(offered, dict) else "",
                item.get("size"),
            )
            item.pop("data-dist-info-metadata", None)
            item["url"] = f"{self.url}/files/{sha256}/{item['filename']}"
            item["core-metadata"] = item["filename"].endswith(".whl")
        return page

    def _out_of_wheel(self, file: File) -> bytes:
        """A wheel's METADATA; the zip's own checksum says that it is whole."""
        try:
            with zipfile.ZipFile(_Ranges(self._session, file.url)) as wheel:
                name = next(
                    name for name in wheel.namelist() if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
                )
                return wheel.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise NetworkError(
                f"{addresses.host(file.url)} sends something else instead of {file.filename}: {error}",
                "lock again, or against another mirror",
            ) from None


class _Ranges(io.RawIOBase):
    """A remote file, read in ranges, the first of which is its end."""

    def __init__(self, session: Any, url: str) -> None:
        self._session, self._url, self._position = session, url, 0
        answer = download.get(session, url, {"Range": f"bytes=-{_TAIL}", "Accept-Encoding": "identity"})
        self._blocks: list[tuple[int, bytes]] = []
        if answer.status_code == 404:
            raise NetworkError(
                f"{addresses.host(url)} does not have {url.rpartition('/')[2]}, which its page names", "lock again"
            )
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
        answer = download.get(
            self._session, self._url, {"Range": f"bytes={start}-{last}", "Accept-Encoding": "identity"}
        )
        self._blocks.append((start, answer.content))
        self._position = stop
        return bytes(answer.content[: stop - start])


class _Handler(loopback.Handler):
    def __init__(self, index: Index, *args: Any) -> None:
        self._index = index
        super().__init__(*args)

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        view = parts.pop(0) if parts[0] in self._index._views and len(parts) > 1 else ""
        try:
            if parts[0] == "simple" and len(parts) == 2:
                page = self._index.page_in(view, parts[1]) if view else self._index.page(parts[1])
                self._send(json.dumps(page).encode(), JSON)
            elif parts[0] == "files" and parts[-1].endswith(".metadata"):
                text = self._index.metadata_in(view, parts[1]) if view else self._index.metadata(parts[1])
                self._send(text, "text/plain")
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
    """Run a loopback index in front of `source` (the user's choice when None)."""
    session = download.session()
    index = Index((source or package_index.upstream()).rstrip("/"), paths.cache_dir() / "metadata", _session=session)
    try:
        with loopback.serve(partial(_Handler, index)) as index.url:
            yield index
    finally:
        index._pool.shutdown(wait=False, cancel_futures=True)
        session.close()


def without(metadata: bytes, requirements: Sequence[str]) -> bytes:
    """A METADATA file without the Requires-Dist lines that ask for just one of these requirements."""
    aside = [Requirement(each) for each in requirements]
    head, blank, body = metadata.partition(b"\n\n")
    kept = [line for line in head.split(b"\n") if _asked(line) not in aside]
    return b"\n".join(kept) + blank + body


def _asked(line: bytes) -> Requirement | None:
    """The requirement in a Requires-Dist line of a METADATA file; None in any other line."""
    key, _, value = line.decode("utf-8", "replace").partition(":")
    try:
        return Requirement(value.strip()) if key.strip().lower() == "requires-dist" else None
    except InvalidRequirement:
        return None


def _moment(text: str | None) -> datetime | None:
    """An upload time of an index page, such as 2025-04-02T17:33:04.463369Z."""
    if not text:
        return None
    moment = datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))  # 3.10 reads some fractions only
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
