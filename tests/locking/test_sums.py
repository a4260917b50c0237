"""locks/SHA256SUMS: one line for each lock, and only the lines of what was locked change."""

from __future__ import annotations

import subprocess

import pytest

from verlock import paths
from verlock.errors import LockError
from verlock.locking import sums


def test_only_the_lines_of_these_folders_change(clone):
    before = sums.read()
    for name in ("vllm072", "vllm073"):
        with (paths.LOCKS / name / "requirements.txt").open("a") as file:
            file.write("# more\n")
    sums.update([paths.LOCKS / "vllm073"])
    after = sums.read()
    assert [name for name in before if before[name] != after[name]] == ["vllm073/requirements.txt"]
    lock = paths.LOCKS / "vllm073/requirements.txt"
    assert sums.written(after, lock) and not sums.written(before, lock)


def test_the_line_of_a_lock_that_is_gone_goes_and_a_new_one_comes(clone):
    before = sums.read()
    (paths.LOCKS / "v1/sources.json").unlink()
    (paths.LOCKS / "vllm099").mkdir()
    (paths.LOCKS / "vllm099/sources.json").write_text("{}")
    (paths.LOCKS / "vllm099/notes.txt").write_text("no lock")
    sums.update([paths.LOCKS / "vllm099"])
    assert {*before} ^ {*sums.read()} == {"v1/sources.json", "vllm099/sources.json"}


def test_nothing_is_written_where_nothing_changed(clone):
    before = sums.path().stat()
    sums.update([paths.LOCKS / "vllm073", paths.LOCKS / "tools"])
    assert sums.path().stat().st_ino == before.st_ino


def test_a_merge_that_left_its_marks_is_refused_and_mended_by_locking(clone):
    whole = sums.path().read_text()
    first, rest = whole.split("\n", 1)
    sums.path().write_text(f"<<<<<<< ours\n{first}\n=======\n{'0' * 64}{first[64:]}\n>>>>>>> theirs\n{rest}")
    with pytest.raises(LockError, match="SHA256SUMS, line 1: not a sha256 and a path") as caught:
        sums.read()
    assert "git checkout HEAD -- locks/SHA256SUMS" in caught.value.remedy
    sums.update([paths.LOCKS / "tools"])
    assert sums.path().read_text() == whole


def test_it_is_made_where_there_is_none(clone):
    whole = sums.path().read_text()
    sums.path().unlink()
    sums.update(path for path in paths.LOCKS.rglob("*") if path.is_dir())
    assert sums.path().read_text() == whole


def test_sha256sum_reads_it():
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", sums.NAME], cwd=paths.LOCKS, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
