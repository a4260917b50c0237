"""Artefacts: the right bytes from a folder, a mirror or the cache, and nothing half-made left by wrong ones."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import pytest

from verlock.env import artefacts
from verlock.errors import IntegrityError, NetworkError
from verlock.system import download, loopback
from verlock.variant.recipe import ArtefactFile

NAME = "flash_attn-2.8.3+cu12torch2.5-cp310-cp310-linux_x86_64.whl"
DATA = b"wheel" * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


def artefact(**more):
    """flash-attn's wheel, at an address where nobody answers."""
    url = f"https://127.0.0.1:9/download/{NAME.replace('+', '%2B')}"
    made = ArtefactFile(torch="2.5", cxx11abi=False, python="3.10", url=url, sha256=SHA256)
    return made.model_copy(update=more)  # which lets a test name an http URL


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VERLOCK_ARTEFACTS", raising=False)
    monkeypatch.setattr(download, "_BACK_OFF", 0)
    monkeypatch.setattr(download, "_SILENT_SECONDS", 0.5)
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A local folder with the file."""
    path = tmp_path / "my artefacts"
    path.mkdir()
    (path / NAME).write_bytes(DATA)
    monkeypatch.setenv("VERLOCK_ARTEFACTS", str(path))
    return path


@pytest.fixture
def serve(monkeypatch):
    """Start a mirror with one kind of answer; its requests are noted."""
    servers = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("VERLOCK_ARTEFACTS", f"http://127.0.0.1:{server.server_port}/")
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@contextlib.contextmanager
def origin():
    """Where the recipe says that the file is: it has it."""

    class Handler(loopback.Handler):
        def do_GET(self):
            self.answer(200, DATA)

    with loopback.serve(Handler) as url:
        yield url


def answering(headers, body, status=200):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    return Handler


def left(cache):
    return [path for path in cache.rglob("*") if path.is_file()]


def test_the_name_is_decoded():
    assert artefacts.filename(artefact().url) == NAME


def test_from_a_folder_then_from_the_cache(folder, monkeypatch):
    path = artefacts.fetch(artefact())
    assert path.name == NAME and path.read_bytes() == DATA
    monkeypatch.delenv("VERLOCK_ARTEFACTS")
    assert artefacts.fetch(artefact()) == path


def test_from_a_mirror(folder, serve):
    serve(partial(Quiet, directory=str(folder)))
    assert artefacts.fetch(artefact()).read_bytes() == DATA


def test_from_a_file_url(folder, monkeypatch):
    monkeypatch.setenv("VERLOCK_ARTEFACTS", folder.as_uri())
    assert artefacts.fetch(artefact()).read_bytes() == DATA


def test_nobody_answers(cache):
    with pytest.raises(NetworkError, match=r"^127\.0\.0\.1:9 does not give flash_attn") as caught:
        artefacts.fetch(artefact())
    assert "VERLOCK_ARTEFACTS" in caught.value.remedy and not left(cache)


def test_a_folder_without_it_is_passed_over(folder):
    (folder / NAME).unlink()
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9"):
        artefacts.fetch(artefact())


@pytest.mark.parametrize("place", ["http://", "nonsense://host", "http://[", "http://host:port"])
def test_a_mirror_that_is_no_address(place, monkeypatch, cache):
    monkeypatch.setenv("VERLOCK_ARTEFACTS", place)
    with pytest.raises(NetworkError):
        artefacts.fetch(artefact())
    assert not left(cache) and not artefacts.reachable(artefact().url, SHA256)


def test_a_mirror_without_it(serve, cache):
    serve(answering({}, b"", 404))
    with pytest.raises(NetworkError, match="Not Found"):
        artefacts.fetch(artefact())
    assert not left(cache)


def test_a_mirror_that_lacks_a_file_is_passed_over(serve, folder):
    serve(answering({}, b"", 404))
    with origin() as url:
        assert artefacts.fetch(artefact(url=f"{url}/{NAME}")).read_bytes() == DATA


def test_a_login_page_of_a_mirror_is_passed_over(serve, folder):
    serve(answering({"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>"))
    with origin() as url:
        assert artefacts.fetch(artefact(url=f"{url}/{NAME}")).read_bytes() == DATA
    with pytest.raises(NetworkError, match="sends a web page instead of other") as caught:
        artefacts.fetch(artefact(url="https://127.0.0.1:9/other.whl"))
    assert "127.0.0.1:9 does not give other.whl" in caught.value.problem


def test_a_folder_that_is_not_there_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("VERLOCK_ARTEFACTS", str(tmp_path / "none"))
    with pytest.raises(NetworkError):
        artefacts.fetch(artefact())
    assert f"VERLOCK_ARTEFACTS names {tmp_path / 'none'}, which is no folder" in capsys.readouterr().err


def test_name_and_password_of_a_mirror_work_and_are_not_shown(serve, folder, monkeypatch, cache):
    class Handler(Quiet):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self):
            if self.headers.get("Authorization") == "Basic " + base64.b64encode(b"user:s3cr3t/x").decode():
                super().do_GET()
            else:
                self.send_error(401)

    server = serve(Handler)
    monkeypatch.setenv("VERLOCK_ARTEFACTS", f"http://user:s3cr3t%2Fx@127.0.0.1:{server.server_port}/")
    assert artefacts.reachable(artefact().url, SHA256)
    assert artefacts.fetch(artefact()).read_bytes() == DATA
    monkeypatch.setenv("VERLOCK_ARTEFACTS", f"http://user:wr0ng@127.0.0.1:{server.server_port}/")
    with pytest.raises(NetworkError, match="it answers 401") as caught:
        artefacts.fetch(artefact(url="https://127.0.0.1:9/other.whl"))
    assert "wr0ng" not in str(caught.value)


def test_wrong_bytes_of_the_right_size(folder, cache):
    wrong = b"x" + DATA[1:]
    (folder / NAME).write_bytes(wrong)
    with pytest.raises(IntegrityError) as caught:
        artefacts.fetch(artefact())
    assert SHA256 in caught.value.problem and hashlib.sha256(wrong).hexdigest() in caught.value.problem
    assert not left(cache)


def test_a_truncated_file(folder, cache):
    (folder / NAME).write_bytes(DATA[:-1])
    with pytest.raises(IntegrityError, match="sha256:"):
        artefacts.fetch(artefact())
    assert not left(cache)


def test_a_connection_that_ends_early(serve, cache):
    serve(answering({"Content-Length": str(len(DATA))}, DATA[:100]))
    with pytest.raises(NetworkError, match="the connection ended after 100 of 5000 bytes"):
        artefacts.fetch(artefact())
    assert not left(cache)


def test_progress_is_told_in_bytes(folder, serve):
    serve(partial(Quiet, directory=str(folder)))
    told = []
    artefacts.fetch(artefact(), told.append)
    assert told == ["0 of 0 MB"], "5000 bytes, of a length that the server names"


def test_progress_without_a_length(serve):
    serve(answering({}, DATA))
    told = []
    artefacts.fetch(artefact(), told.append)
    assert told[-1] == "0 MB"


def test_an_answer_in_broken_pieces(serve, cache):
    class Handler(answering({"Transfer-Encoding": "chunked"}, b"ffff\r\n" + DATA[:10])):
        protocol_version = "HTTP/1.1"

    serve(Handler)
    with pytest.raises(NetworkError):
        artefacts.fetch(artefact())
    assert not left(cache)


def test_a_damaged_file_in_the_cache_is_fetched_again(folder, capsys):
    path = artefacts.fetch(artefact())
    path.write_bytes(b"")
    assert artefacts.fetch(artefact()).read_bytes() == DATA
    assert "is damaged" in capsys.readouterr().err


def test_a_full_disk_is_no_matter_of_the_network(folder, serve, cache, monkeypatch):
    serve(partial(Quiet, directory=str(folder)))
    real = artefacts.Path.open

    def full(self, mode="r", *rest, **more):
        return real(Path("/dev/full"), mode, buffering=0) if mode == "wb" else real(self, mode, *rest, **more)

    monkeypatch.setattr(artefacts.Path, "open", full)
    with pytest.raises(OSError) as caught:
        artefacts.fetch(artefact())
    assert caught.value.errno == errno.ENOSPC


def test_reachable_downloads_nothing(folder, serve, cache, monkeypatch):
    assert artefacts.reachable(artefact().url, SHA256)
    monkeypatch.delenv("VERLOCK_ARTEFACTS")
    assert not artefacts.reachable(artefact().url, SHA256)
    serve(partial(Quiet, directory=str(folder)))
    assert artefacts.reachable(artefact().url, SHA256)
    (folder / NAME).unlink()
    assert not artefacts.reachable(artefact().url, SHA256)
    assert not left(cache)
