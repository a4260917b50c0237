"""The sha256 of many files at once."""

from __future__ import annotations

from pathlib import Path

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
