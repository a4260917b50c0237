"""A package index on the loopback with upload times, whose releases a test makes up: empty wheels with metadata."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
    rows = []
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as wheel:
        for path, text in texts.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text)}")
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return stream.getvalue()


@contextlib.contextmanager
def serve() -> Iterator[FakeIndex]:
    """Run an empty index."""
    index = FakeIndex()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.asked[self.path] = index.asked.get(self.path, 0) + 1
            parts = self.path.strip("/").split("/")
            if parts[0] == "simple" and parts[-1] in index.files:
                self._send(json.dumps(index.page(parts[-1], self.headers.get("User-Agent", ""))).encode(), JSON)
            elif parts[0] == "files" and parts[-1] in index.files.get(parts[1], {}):
                self._send(index.files[parts[1]][parts[-1]][0], "application/octet-stream")
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def _send(self, body: bytes, kind: str) -> None:
            wanted = self.headers.get("Range", "")
            whole, status, start = len(body), 200, 0
            if wanted.startswith("bytes="):
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start = int(first) if first else max(0, whole - int(last))
                body = body[start : int(last) + 1 if first and last else whole]
                status = 206
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{whole}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    try:
        yield index
    finally:
        server.shutdown()
