"""A package index on the loopback that sends its files no faster than a given line: the same in every round of a benchmark.

It has the wheels and sdists of one folder, such as `wheels/` of a bundle, and for each wheel its metadata as a file of its own.
"""

from __future__ import annotations

import contextlib
import html
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from packaging.utils import parse_sdist_filename, parse_wheel_filename

from verlock.system import loopback

_BLOCK = 1 << 18  # bytes sent at a time
_METADATA = ".metadata"  # what a wheel's address ends with where only its metadata is asked for


class Line:
    """So many megabit a second for all connections together."""

    def __init__(self, megabit: float) -> None:
        self._second = megabit * 1e6 / 8  # bytes
        self._lock = threading.Lock()
        self._free = 0.0

    def take(self, count: int) -> None:
        """Wait until `count` bytes may go."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + count / self._second
            wait = self._free - time.monotonic()
        if wait > 0:
            time.sleep(wait)


@contextlib.contextmanager
def serve(folder: Path, line: Line | None) -> Iterator[str]:
    """Serve the files of `folder` while this is open; gives the index's address. Without a line, as fast as the loopback is."""
    projects: dict[str, list[Path]] = {}  # by normalised name
    for path in sorted(folder.iterdir()):
        name, *_ = parse_wheel_filename(path.name) if path.suffix == ".whl" else parse_sdist_filename(path.name)
        projects.setdefault(name, []).append(path)
    with loopback.serve(partial(_Handler, folder, projects, line)) as address:
        yield f"{address}/simple"


class _Handler(loopback.Handler):
    def __init__(self, folder: Path, projects: dict[str, list[Path]], line: Line | None, *arguments: object) -> None:
        self._folder, self._projects, self._line = folder, projects, line
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        _, kind, name, *_ = [*unquote(self.path).split("/"), ""]
        path = self._folder / name.removesuffix(_METADATA)
        if kind == "simple" and name in self._projects:
            self.answer(200, _page(self._projects[name]), Content_Type="text/html")
        elif kind != "files" or not path.is_file():
            self.answer(404)
        elif name.endswith(_METADATA):
            self.answer(200, _metadata(path))
        else:
            self._send(path)

    def _send(self, path: Path) -> None:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.flush()
            for start in range(0, size, _BLOCK):
                count = min(_BLOCK, size - start)
                if self._line:
                    self._line.take(count)
                self.connection.sendall(file.read(count))


def _page(files: list[Path]) -> bytes:
    links = []
    for path in files:
        beside = ' data-core-metadata="true"' if path.suffix == ".whl" else ""
        name = html.escape(path.name)
        links.append(f'<a href="/files/{name}"{beside}>{name}</a>')
    return "\n".join(["<!DOCTYPE html>", *links]).encode()


def _metadata(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        name = next(
            each for each in archive.namelist() if each.count("/") == 1 and each.endswith(".dist-info/METADATA")
        )
        return archive.read(name)
