"""The places of the conda layer without a network: what is waited for, and what is asked again."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import sys
import time
from types import ModuleType

import pytest

from verlock.conda import places
from verlock.errors import DiskTooSmall, NetworkError

CHANNEL = "https://c.example/channel"
TAIL = "linux-64/p-1.0-0.conda"
HASHES = {(CHANNEL, TAIL): hashlib.sha256(b"package").hexdigest()}


@pytest.fixture
def rattler(monkeypatch):
    """rattler's download, as a coroutine of the test's own; the real one dies with some interpreters when they exit."""
    module = ModuleType("rattler.package_streaming")
    monkeypatch.setitem(sys.modules, "rattler", ModuleType("rattler"))
    monkeypatch.setitem(sys.modules, "rattler.package_streaming", module)
    monkeypatch.setattr(places, "PAUSE", 0.01)
    asked = []

    def does(download):
        async def download_to_writer(client, url, writer):
            asked.append(url)
            await download(url, writer)

        module.download_to_writer = download_to_writer
        return asked

    return does


async def stalls(url, writer):
    if "second" in url:
        writer.write(b"pack")
    await asyncio.sleep(60)


async def trickles(url, writer):
    for letter in b"package":
        await asyncio.sleep(0.1)
        writer.write(bytes([letter]))


def test_a_place_that_sends_nothing_is_given_up_and_not_asked_for_anything_else(rattler):
    asked = rattler(stalls)
    table = {CHANNEL: ["https://first.example", "https://second.example"]}
    source = places.Places(None, table, HASHES, stall=0.1)
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"first\.example sent nothing for 0 s\n.*second\.example sent nothing"):
        source.get(CHANNEL, TAIL)
    assert len(asked) == 2
    with pytest.raises(NetworkError):
        source.get(CHANNEL, "linux-64/q-1.0-0.conda")
    assert len(asked) == 2
    assert time.monotonic() - start < 5


def test_a_slow_place_is_waited_for(rattler):
    rattler(trickles)
    source = places.Places(None, {CHANNEL: [CHANNEL]}, HASHES, stall=0.4)
    with source.get(CHANNEL, TAIL) as file:
        assert file.read() == b"package"


def test_nothing_is_left_of_a_download(rattler, tmp_path):
    rattler(trickles)
    source = places.Places(None, {CHANNEL: [CHANNEL]}, HASHES, tmp_path)
    with source.get(CHANNEL, TAIL):
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "words", "tries"),
    [
        ("HTTP status client error (404 Not Found) for url (https://c.example/x)", "c.example answers 404 Not Found", 1),
        ("HTTP status client error (429 Too Many Requests) for url (https://c.example/x)", "answers 429", 3),
        ("HTTP status server error (503 Service Unavailable) for url (https://c.example/x)", "answers 503", 3),
        ("HTTP status server error (599 <unknown status code>) for url (https://c.example/x)", "answers 599", 3),
        ("HTTP status client error (404 Not Found) for url (https://d.example/x)", "404 Not Found (at d.example, where", 1),
        ("error following redirect for url (https://c.example/x)", "c.example leads in a circle", 1),
        ("error decoding response body", "c.example cannot be used: error decoding response body", 3),
        ("builder error for https://anna:secret@c.example", "builder error for https://***@c.example", 1),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again(rattler, said, words, tries):
    async def fails(url, writer):
        raise RuntimeError(said)

    asked = rattler(fails)
    with pytest.raises(NetworkError) as caught:
        places.Places(None, {CHANNEL: [CHANNEL]}, HASHES).get(CHANNEL, TAIL)
    assert words in caught.value.problem
    assert len(asked) == tries


def test_a_folder_of_somebody_else_is_passed_over(tmp_path):
    (tmp_path / TAIL).mkdir(parents=True)
    with pytest.raises(NetworkError, match=r"cannot be read: Is a directory"):
        places.Places(None, {CHANNEL: [str(tmp_path)]}, HASHES).get(CHANNEL, TAIL)


def test_whoever_has_not_begun_after_the_time_for_all_is_named(rattler, monkeypatch):
    monkeypatch.setattr(places, "ASK", 0.3)
    rattler(stalls)
    with pytest.raises(NetworkError, match=r"first\.example does not answer within 0 s"):
        places.Places(None, {CHANNEL: ["https://first.example"]}, HASHES, stall=2).ask(CHANNEL, TAIL)


def test_a_full_disk_is_no_matter_of_the_network(rattler, monkeypatch):
    async def whole(url, writer):
        writer.write(b"package")

    class Full(io.BytesIO):
        def write(self, block):
            raise OSError(errno.ENOSPC, "No space left on device")

    asked = rattler(whole)
    monkeypatch.setattr(places.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(DiskTooSmall):
        places.Places(None, {CHANNEL: ["https://first.example", "https://second.example"]}, HASHES).get(CHANNEL, TAIL)
    assert len(asked) == 1
