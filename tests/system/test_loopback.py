"""Servers of our own: whole answers, one connection for several requests, reachable from this machine alone, gone afterwards."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from verlock.system import loopback


class Echo(loopback.Handler):
    def do_GET(self):
        if self.path == "/none":
            self.answer(404)
        elif self.path == "/elsewhere":
            self.answer(307, Location="/here")
        else:
            self.answer(200, self.path.encode() * 50_000, Content_Type="text/plain", ETag="x")

    do_HEAD = do_GET


@pytest.fixture
def server():
    with loopback.serve(Echo) as url:
        yield url


def test_a_whole_answer_with_its_headers(server):
    with urllib.request.urlopen(f"{server}/here") as answer:
        assert answer.status == 200 and answer.read() == b"/here" * 50_000
        assert answer.headers["Content-Type"] == "text/plain" and answer.headers["ETag"] == "x"
        assert answer.headers["Content-Length"] == "250000"


def test_an_answer_without_a_body(server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server}/none")
    assert caught.value.code == 404 and caught.value.headers["Content-Length"] == "0"
    with urllib.request.urlopen(f"{server}/elsewhere") as answer:
        assert answer.url == f"{server}/here"


def test_one_connection_for_several_requests_and_a_head_has_no_body(server):
    """A body behind a HEAD would be read as the beginning of the next answer."""
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=10)
    connection.connect()
    first = connection.sock
    for method, path in [("HEAD", "/a"), ("GET", "/b"), ("GET", "/none"), ("HEAD", "/c"), ("GET", "/d")]:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        assert body == (path.encode() * 50_000 if method == "GET" and path != "/none" else b"")
        if method == "HEAD":
            assert answer.headers["Content-Length"] == "100000"
        assert connection.sock is first, "the connection was closed"
    connection.close()


def test_answers_do_not_wait_for_acknowledgements(server):
    connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=10)
    times = []
    for _ in range(20):
        start = time.monotonic()
        connection.request("GET", "/none")
        connection.getresponse().read()
        times.append(time.monotonic() - start)
    connection.close()
    assert sorted(times)[len(times) // 2] < 0.03


def test_nothing_is_said(server, capfd):
    urllib.request.urlopen(f"{server}/here").read()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server}/none")
    assert capfd.readouterr() == ("", "")


def test_one_that_takes_long_keeps_nobody_waiting():
    go, inside = threading.Event(), threading.Event()

    class Slow(loopback.Handler):
        def do_GET(self):
            if self.path == "/slow":
                inside.set()
                go.wait(10)
            self.answer(200, b"done")

    got = []
    with loopback.serve(Slow) as url:
        slow = threading.Thread(target=lambda: got.append(urllib.request.urlopen(f"{url}/slow").read()))
        slow.start()
        assert inside.wait(10)
        assert urllib.request.urlopen(f"{url}/quick", timeout=5).read() == b"done" and not got
        go.set()
        slow.join()
    assert got == [b"done"]


def test_it_is_on_the_loopback_alone_and_gone_afterwards():
    with loopback.serve(Echo) as one, loopback.serve(Echo) as other:
        assert urlsplit(one).hostname == urlsplit(other).hostname == "127.0.0.1" and one != other
        assert one.startswith("http://") and urlsplit(one).path == ""
    for url in (one, other):
        with pytest.raises(urllib.error.URLError, match="refused"):
            urllib.request.urlopen(f"{url}/here", timeout=5)


def test_it_goes_where_the_work_fails_and_does_not_wait_for_a_client_that_stays():
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError), loopback.serve(Echo) as url:
        staying = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        staying.request("GET", "/none")
        staying.getresponse().read()
        1 / 0
    assert time.monotonic() - start < 5
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)
    staying.close()
