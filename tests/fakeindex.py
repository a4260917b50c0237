"""A package index on the loopback with upload times, whose releases a test makes up: empty wheels with metadata."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from verlock.system import loopback
from verlock.variant import record

JSON = "application/vnd.pypi.simple.v1+json"


@dataclass
class FakeIndex:
    """`url` is the simple index; `asked` counts requests by path. `hide`: files not shown to a User-Agent."""

    url: str = ""
    files: dict[str, dict[str, tuple[bytes, str]]] = field(default_factory=dict)
    hide: dict[str, set[str]] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)

    def release(
        self, name: str, version: str, uploaded: str, *requires: str, tag: str = "py3-none-any", salt: str = ""
    ) -> str:
        """Upload one wheel of a release on a day (YYYY-MM-DD); returns its sha256."""
        data = _wheel(name, version, requires, tag, salt)
        self.files.setdefault(name, {})[f"{name}-{version}-{tag}.whl"] = (data, uploaded)
        return hashlib.sha256(data).hexdigest()

    def sdist(self, name: str, version: str, uploaded: str) -> str:
        """Upload something that has an sdist's name; returns its sha256."""
        data = f"{name} {version}".encode()
        self.files.setdefault(name, {})[f"{name}-{version}.tar.gz"] = (data, uploaded)
        return hashlib.sha256(data).hexdigest()

    def page(self, name: str, agent: str) -> dict[str, Any]:
        """A project's page, as this User-Agent sees it."""
        hidden = {file for part, files in self.hide.items() if part in agent for file in files}
        listed = [
            {
                "filename": file,
                "url": f"../../files/{name}/{file}",
                "hashes": {"sha256": hashlib.sha256(data).hexdigest()},
                "upload-time": f"{uploaded}T12:00:00.000000Z",
                "size": len(data),
                "yanked": False,
            }
            for file, (data, uploaded) in sorted(self.files[name].items())
            if file not in hidden
        ]
        return {"meta": {"api-version": "1.1"}, "name": name, "files": listed, "versions": []}


def _wheel(name: str, version: str, requires: tuple[str, ...], tag: str, salt: str) -> bytes:
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {item}\n" for item in requires
    )
    texts = {
        f"{name}.py": f"# {salt}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    contents = {path: text.encode() for path, text in texts.items()}
    own = f"{info}/{record.NAME}"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        for path, data in {**contents, own: record.text(contents.items(), own).encode()}.items():
            wheel.writestr(zipfile.ZipInfo(path), data)
    return stream.getvalue()


@contextlib.contextmanager
def serve() -> Iterator[FakeIndex]:
    """Run an empty index."""
    index = FakeIndex()

    class Handler(loopback.Handler):
        def do_GET(self) -> None:
            index.asked[self.path] = index.asked.get(self.path, 0) + 1
            parts = self.path.strip("/").split("/")
            if parts[0] == "simple" and parts[-1] in index.files:
                page = index.page(parts[-1], self.headers.get("User-Agent", ""))
                self._send(json.dumps(page).encode(), JSON)
            elif parts[0] == "files" and parts[-1] in index.files.get(parts[1], {}):
                self._send(index.files[parts[1]][parts[-1]][0], "application/octet-stream")
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def _send(self, body: bytes, kind: str) -> None:
            wanted = self.headers.get("Range", "")
            if not wanted.startswith("bytes="):
                self.answer(200, body, Content_Type=kind, Accept_Ranges="bytes")
                return
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(0, len(body) - int(last))
            part = body[start : int(last) + 1 if first and last else len(body)]
            span = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
            self.answer(206, part, Content_Type=kind, Accept_Ranges="bytes", Content_Range=span)

    with loopback.serve(Handler) as address:
        index.url = f"{address}/simple"
        yield index
