"""The sha256 of many files at once."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from verlock.env import hashing


def test_every_file_has_its_hash_and_every_byte_is_counted(tmp_path):
    contents = {str(tmp_path / str(number)): b"x" * (number * 1000) for number in range(60)}
    for path, data in contents.items():
        Path(path).write_bytes(data)
    count, hashes = 0, {}
    for read, answers in hashing.sha256_of_all([(len(data), path) for path, data in contents.items()]):
        count += read
        hashes.update(answers)
    assert hashes == {path: toy.sha256(data) for path, data in contents.items()}
    assert count == sum(map(len, contents.values()))


def test_a_file_that_cannot_be_read_has_the_reason_in_place_of_its_hash(tmp_path):
    assert hashing.hash_share([str(tmp_path / "gone"), str(tmp_path)]) == (
        0,
        {str(tmp_path / "gone"): "No such file or directory", str(tmp_path): "Is a directory"},
    )


def test_nothing_to_hash():
    assert list(hashing.sha256_of_all([])) == []


@given(st.lists(st.integers(0, 10**9), max_size=300))
def test_shares_hold_every_file_once(sizes):
    files = [(size, str(number)) for number, size in enumerate(sizes)]
    shares = list(hashing.shares(files))
    assert sorted(each for share in shares for each in share) == sorted(files)
    small = [{size <= hashing._SMALL for size, _ in share} for share in shares]
    assert all(len(each) == 1 for each in small), "a share is of small files or of large ones"
    assert small == sorted(small, key=max), "the largest first"


def unpacked(store, name, files):
    """Let a wheel come into the store, whole, as uv does."""
    draft = store.with_name(f".{name}")
    for path, data in files.items():
        (draft / path).parent.mkdir(parents=True, exist_ok=True)
        (draft / path).write_bytes(data)
    draft.rename(store / name)
    return store / name


def until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def hashed():
    with hashing.Hashed() as known:
        yield known


@pytest.fixture
def ahead(tmp_path, hashed):
    """A wheel whose two files were hashed ahead, and are linked into an environment."""
    (tmp_path / "store").mkdir()
    unpacked(tmp_path / "store", "older", {"old.py": b"old"})
    hashed.watch(tmp_path / "store")
    wheel = unpacked(tmp_path / "store", "newer", {"a.py": b"a = 1", "sub/b.py": b"b = 2"})
    until(lambda: all(hashed.of((wheel / each).stat()) for each in ("a.py", "sub/b.py")))
    (tmp_path / "env").mkdir()
    os.link(wheel / "a.py", tmp_path / "env/a.py")
    return hashed


def test_a_file_hashed_in_the_store_is_known_where_it_is_linked(tmp_path, ahead):
    assert ahead.of((tmp_path / "env/a.py").stat()) == toy.sha256(b"a = 1")


def test_what_was_in_the_store_before_and_a_copy_are_not_known(tmp_path, ahead):
    (tmp_path / "env/copy.py").write_bytes(b"a = 1")
    assert ahead.of((tmp_path / "store/older/old.py").stat()) == ahead.of((tmp_path / "env/copy.py").stat()) == ""


@pytest.mark.parametrize("data", [b"a = 2", b"a = 10"])
def test_a_file_that_was_changed_since_is_not_known(tmp_path, ahead, data):
    with (tmp_path / "env/a.py").open("r+b") as file:
        file.write(data)
    assert ahead.of((tmp_path / "env/a.py").stat()) == ""


def test_a_store_that_comes_later_and_links_and_folders_in_it(tmp_path, hashed):
    hashed.watch(tmp_path / "store")
    (tmp_path / "store").mkdir()
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft/link").symlink_to("nowhere")
    (tmp_path / "draft/folder").symlink_to(tmp_path)
    (tmp_path / "draft/z.py").write_bytes(b"z")
    (tmp_path / "draft").rename(tmp_path / "store/wheel")
    until(lambda: hashed.of((tmp_path / "store/wheel/z.py").stat()))
    assert not hashed.of((tmp_path / "store/wheel/link").lstat())


@pytest.fixture
def slow(monkeypatch):
    """Hashing that takes its time; the paths that were read."""
    read = []
    real = hashing._hash
    monkeypatch.setattr(
        hashing, "_hash", lambda path, block: read.append(path) or time.sleep(0.02) or real(path, block)
    )
    monkeypatch.setattr(hashing, "_SHARE", 1)  # each file is a share
    return read


def many(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / str(number)).write_bytes(b"%d" % number)
    return [(each.stat(), str(each)) for each in folder.iterdir()]


@pytest.fixture
def arriving(tmp_path, slow, hashed):
    """A wheel of many files that came into the store, of which the first is being read: status and path of each."""
    (tmp_path / "store").mkdir()
    hashed.watch(tmp_path / "store")
    wheel = unpacked(tmp_path / "store", "wheel", {str(number): b"%d" % number for number in range(100)})
    until(lambda: slow)
    return [(each.stat(), str(each)) for each in wheel.iterdir()]


def test_the_end_waits_for_what_is_being_read_and_leaves_the_rest(slow, hashed, arriving):
    hashed.__exit__()
    count = len(slow)
    time.sleep(0.1)
    assert len(slow) == count < len(arriving)


def test_when_the_installer_is_done_the_rest_is_read(slow, hashed, arriving):
    hashed.hurry()
    hashed.wait()
    assert all(hashed.of(status) == toy.sha256(Path(path).name.encode()) for status, path in arriving)
    assert len(slow) == len(arriving), "none is read twice"


def test_what_is_begun_is_read_once_and_what_was_to_be_read_ahead_is_left(tmp_path, slow, hashed, arriving):
    own = many(tmp_path / "env", 5)
    hashed.begin([*arriving[:3], *own])
    told = []
    hashed.wait(told.append)
    assert all(hashed.of(status) for status, _ in [*own, *arriving[:3]])
    assert len(slow) == len(set(slow)) < len(arriving)
    assert sum(told) >= sum(status.st_size for status, _ in own)


def test_a_file_that_changes_or_goes_while_it_is_read_is_not_known(tmp_path, monkeypatch, hashed):
    files = many(tmp_path / "env", 2)
    real = hashing._hash

    def other(path, block):
        answer = real(path, block)
        Path(path).write_bytes(b"longer than it was")
        return answer[0], Path(path).stat()

    monkeypatch.setattr(hashing, "_hash", other)
    Path(files[1][1]).unlink()
    hashed.begin(files)
    hashed.wait()
    assert not any(hashed.of(status) for status, _ in files)
    assert not hashed.of((tmp_path / "env" / Path(files[0][1]).name).stat())


def test_threads_wait_as_long_as_they_did_for_the_interpreter_afterwards():
    before = sys.getswitchinterval()
    with hashing.Hashed():
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before
