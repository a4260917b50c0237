"""The sha256 of many files at once."""

from __future__ import annotations

import os
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
    shares = list(hashing.shares(files, 4))
    assert sorted(path for share in shares for path in share) == sorted(path for _, path in files)


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
def ahead(tmp_path):
    """A wheel whose two files were hashed ahead, and are linked into an environment."""
    (tmp_path / "store").mkdir()
    unpacked(tmp_path / "store", "older", {"old.py": b"old"})
    known = hashing.Ahead()
    with known.watching(tmp_path / "store"):
        wheel = unpacked(tmp_path / "store", "newer", {"a.py": b"a = 1", "sub/b.py": b"b = 2"})
        until(lambda: all(known.of((wheel / each).stat()) for each in ("a.py", "sub/b.py")))
    (tmp_path / "env").mkdir()
    os.link(wheel / "a.py", tmp_path / "env/a.py")
    return known


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


def test_a_store_that_comes_later_and_links_and_folders_in_it(tmp_path):
    known = hashing.Ahead()
    with known.watching(tmp_path / "store"):
        (tmp_path / "store").mkdir()
        (tmp_path / "draft").mkdir()
        (tmp_path / "draft/link").symlink_to("nowhere")
        (tmp_path / "draft/folder").symlink_to(tmp_path)
        (tmp_path / "draft/z.py").write_bytes(b"z")
        (tmp_path / "draft").rename(tmp_path / "store/wheel")
        until(lambda: known.of((tmp_path / "store/wheel/z.py").stat()))
    assert not known.of((tmp_path / "store/wheel/link").lstat())


def test_the_end_waits_for_one_batch_and_leaves_the_rest(tmp_path, monkeypatch):
    batches = []
    monkeypatch.setattr(hashing.Ahead, "_hash", lambda self, paths: batches.append(paths) or time.sleep(0.05))
    (tmp_path / "store").mkdir()
    with hashing.Ahead().watching(tmp_path / "store"):
        unpacked(tmp_path / "store", "wheel", {str(number): b"x" for number in range(3000)})
        until(lambda: batches)
    assert sum(map(len, batches)) < 3000
