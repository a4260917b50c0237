"""Downloads: what is tried again and what is not, where an answer that was cut off goes on, and which host is named."""

from __future__ import annotations

import hashlib
import time

import pytest

from verlock.errors import IntegrityError, NetworkError
from verlock.system import download, loopback, process

DATA = bytes(range(256)) * 40_000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "_BACK_OFF", 0)
    monkeypatch.setattr(download, "_SILENT_SECONDS", 2)


@pytest.fixture
def host():
    """A host whose answers are given one after another, the last for ever; each is called with its handler."""
    asked = []

    class Handler(loopback.Handler):
        answers = ()

        def do_GET(self):
            asked.append(dict(self.headers))
            self.answers[min(len(asked), len(self.answers)) - 1](self)

    with loopback.serve(Handler) as url:

        def start(*answers):
            Handler.answers = answers
            return f"{url}/a/file.whl", asked

        yield start


def status(code, **headers):
    return lambda handler: handler.answer(code, b"", **headers)


def whole(handler):
    handler.answer(200, DATA, ETag='"one"')


def cut(at, **headers):
    """The first `at` bytes, or what a Range asks for until there; then the connection ends."""

    def answer(handler):
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(DATA)))
        handler.end_headers()
        handler.wfile.write(DATA[:at])
        handler.close_connection = True

    return answer


def rest(handler):
    start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
    handler.answer(206, DATA[start:], Content_Range=f"bytes {start}-{len(DATA) - 1}/{len(DATA)}")


@pytest.mark.parametrize("code", [500, 502, 503, 408, 429])
def test_what_passes_by_itself_is_tried_again(host, tmp_path, code):
    url, asked = host(status(code), status(code), whole)
    download.fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA and len(asked) == 3


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_a_refusal_is_final(host, tmp_path, code):
    url, asked = host(status(code), whole)
    with pytest.raises(NetworkError, match=f"does not give file.whl: it answers {code}"):
        download.fetch(url, tmp_path / "file", SHA256)
    assert len(asked) == 1


def test_no_host_is_asked_for_ever(host, tmp_path):
    url, asked = host(status(503))
    with pytest.raises(NetworkError, match="503"):
        download.fetch(url, tmp_path / "file", SHA256)
    assert len(asked) == 4


def silent(handler, after=0):
    """So many bytes, and then nothing for longer than anybody waits."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(DATA)))
    handler.send_header("ETag", '"one"')
    handler.end_headers()
    handler.wfile.write(DATA[:after])
    handler.wfile.flush()
    time.sleep(1.5)


@pytest.mark.parametrize("after", [0, 1000])
def test_a_host_that_falls_silent_twice_is_not_waited_for_a_third_time(host, tmp_path, monkeypatch, after):
    monkeypatch.setattr(download, "_SILENT_SECONDS", 0.3)
    url, asked = host(lambda handler: silent(handler, after))
    with pytest.raises(NetworkError):
        download.fetch(url, tmp_path / "file", SHA256)
    assert len(asked) == 2


def test_a_host_that_goes_on_after_a_silence_is_waited_for_again(host, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_SILENT_SECONDS", 0.3)
    once = lambda handler: silent(handler, download._BLOCK + 10)  # noqa: E731
    url, asked = host(once, lambda handler: silent(handler, 2 * download._BLOCK + 20), whole)
    download.fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA and len(asked) == 3


def test_a_host_may_say_how_long_to_wait(host, tmp_path):
    url, _ = host(status(429, Retry_After="1"), whole)
    start = time.monotonic()
    download.fetch(url, tmp_path / "file", SHA256)
    assert time.monotonic() - start >= 1


def test_a_wait_that_cannot_be_read_is_none(host, tmp_path):
    url, _ = host(status(429, Retry_After="soon"), whole)
    download.fetch(url, tmp_path / "file", SHA256)


def test_what_was_cut_off_goes_on_where_it_ended(host, tmp_path):
    url, asked = host(cut(5_000_000, ETag='"one"'), rest)
    told = []
    download.fetch(url, tmp_path / "file", SHA256, told.append)
    assert (tmp_path / "file").read_bytes() == DATA
    assert asked[1]["Range"] == "bytes=5000000-" and asked[1]["If-Range"] == '"one"'
    assert told[-1] == "10 of 10 MB"


def test_another_file_by_now_starts_anew(host, tmp_path):
    url, _ = host(cut(5_000_000, ETag='"zero"'), whole)
    download.fetch(url, tmp_path / "file", SHA256)
    assert (tmp_path / "file").read_bytes() == DATA


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}])
def test_without_a_mark_of_its_state_a_file_starts_anew(host, tmp_path, headers):
    url, asked = host(cut(5_000_000, **headers), whole)
    download.fetch(url, tmp_path / "file", SHA256)
    assert "Range" not in asked[1]


def test_cut_off_time_and_again_is_no_tampering(host, tmp_path):
    url, asked = host(cut(100))
    with pytest.raises(NetworkError, match=f"the connection ended after 100 of {len(DATA)} bytes"):
        download.fetch(url, tmp_path / "file", SHA256)
    assert len(asked) == 4


def test_other_bytes_are_tampering(host, tmp_path):
    url, asked = host(whole)
    with pytest.raises(IntegrityError, match=f"wanted  sha256:{'0' * 64}"):
        download.fetch(url, tmp_path / "file", "0" * 64)
    assert len(asked) == 1


def test_the_host_that_really_failed_is_named(host, tmp_path):
    url, _ = host(status(302, Location="http://127.0.0.1:9/elsewhere?token=s3cret"))
    with pytest.raises(NetworkError, match=r"^127\.0\.0\.1:9 does not give file.whl: .*refused") as caught:
        download.fetch(url, tmp_path / "file", SHA256)
    assert "s3cret" not in str(caught.value)


def test_a_login_page_is_no_file(host, tmp_path):
    url, asked = host(lambda handler: handler.answer(200, b"<html>", Content_Type="text/html; charset=utf-8"))
    with pytest.raises(NetworkError, match=r"sends a web page instead of file\.whl: most likely a login form"):
        download.fetch(url, tmp_path / "file", SHA256)
    assert len(asked) == 1 and not download.reachable([url])


def test_our_own_servers_are_never_asked_through_a_proxy(host, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://user:s3cret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    url, _ = host(whole)
    download.fetch(url, tmp_path / "file", SHA256)
    assert process.RESOLVER.environment()["no_proxy"] == process.OWN.environment()["NO_PROXY"] == "127.0.0.1,localhost"
    with pytest.raises(
        NetworkError, match=r"the proxy 127\.0\.0\.1:9 does not give file from mirror\.example"
    ) as caught:
        download.fetch("http://mirror.example/file", tmp_path / "file", SHA256)
    assert "s3cret" not in str(caught.value)


def test_reachable_asks_once_and_within_its_time(host, monkeypatch):
    url, asked = host(lambda handler: time.sleep(5))
    monkeypatch.setattr(download, "_REACHABLE_SECONDS", 0.5)
    start = time.monotonic()
    assert not download.reachable([url, "http://127.0.0.1:9/"])
    assert time.monotonic() - start < 3 and len(asked) <= 1


def test_an_offline_run_asks_no_host_and_takes_what_the_bundle_has(monkeypatch, tmp_path):
    (tmp_path / "artefacts").mkdir()
    (tmp_path / "artefacts/a.whl").write_bytes(b"a")
    monkeypatch.setenv("VERLOCK_BUNDLE", str(tmp_path))
    monkeypatch.setenv("VERLOCK_OFFLINE", "1")
    with loopback.serve(loopback.Handler) as url:
        assert not download.reachable([f"{url}/a.whl"])
        sha256 = hashlib.sha256(b"a").hexdigest()
        download.fetch_first([*download.users_places("a.whl"), f"{url}/a.whl"], tmp_path / "got", sha256)
        with pytest.raises(NetworkError, match="this run is offline"):
            download.fetch(f"{url}/b.whl", tmp_path / "b", sha256)
    assert (tmp_path / "got").read_bytes() == b"a"
