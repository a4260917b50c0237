"""Files: their hashes, whole or not at all, and one run at a time."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from verlock import paths
from verlock.system import files


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_hash_is_of_all_bytes(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert files.sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()
    assert files.sha256_if_there(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_what_cannot_be_read_has_no_hash(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        assert files.sha256_if_there(path) is None
        with pytest.raises(OSError):
            files.sha256(path)


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_written_is_there_and_nothing_else(tmp_path, durable):
    path = tmp_path / "new/folder/file"
    files.write_whole(path, "Ünï\r\n", durable=durable)
    assert path.read_bytes() == "Ünï\r\n".encode()
    files.write_whole(path, b"\xff", durable=durable)
    assert path.read_bytes() == b"\xff"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("durable", [False, True])
def test_durable_alone_waits_for_the_disk_and_does_so_before_the_name_is_given(tmp_path, monkeypatch, durable):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_size))
    (tmp_path / "file").write_text("old")
    files.write_whole(tmp_path / "file", "newer", durable=durable)
    assert seen == ([5] if durable else [])


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["write", "replace"])
def test_an_error_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, error, where):
    def fail(*arguments):
        raise error

    (tmp_path / "file").write_text("old")
    if where == "write":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(type(error)):
        files.write_whole(tmp_path / "file", "new", durable=True)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
def test_a_kill_leaves_the_old_file_and_the_next_run_writes_over_what_is_left(tmp_path, where):
    """SIGKILL lets nothing be cleaned up: what it leaves has a draft's name, and is in nobody's way."""
    (tmp_path / "file").write_text("old")
    code = (
        "import os, pathlib, signal\nfrom verlock.system import files\n"
        f"{where} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"files.write_whole(pathlib.Path({str(tmp_path / 'file')!r}), 'new' * 100_000, durable=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_text() == "old"
    assert all(path.name.startswith(".file.") for path in tmp_path.iterdir() if path.name != "file")
    files.write_whole(tmp_path / "file", "newest")
    assert (tmp_path / "file").read_text() == "newest"


def test_no_reader_meets_half_a_file_whoever_else_writes(tmp_path):
    path, whole = tmp_path / "file", {letter * 300_000 for letter in "abc"}
    files.write_whole(path, "a" * 300_000)
    over, failed = threading.Event(), []

    def write(content):
        try:
            while not over.is_set():
                files.write_whole(path, content)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in whole]
    for writer in writers:
        writer.start()
    try:
        seen = {path.read_text() for _ in range(200)}
    finally:
        over.set()
        for writer in writers:
            writer.join()
    assert seen <= whole and not failed
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_drafts_lie_beside_the_file_and_no_two_writers_share_one(tmp_path):
    names = [files.draft_of(tmp_path / "file")]
    other = threading.Thread(target=lambda: names.append(files.draft_of(tmp_path / "file")))
    other.start()
    other.join()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        names.append(pool.apply(files.draft_of, (tmp_path / "file",)))
    assert len(set(names)) == 3 and {name.parent for name in names} == {tmp_path}
    assert all(name.name.startswith(".file.") for name in names)


def test_what_is_discarded_loses_its_name_before_anything_in_it_is_deleted(tmp_path, monkeypatch):
    folder = tmp_path / "toy"
    (folder / "sub").mkdir(parents=True)
    seen = []
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, **options: seen.append((path, folder.exists())))
    files.discard(folder)
    (folder / "sub").mkdir(parents=True)
    files.discard(folder, "other")
    assert [there for _, there in seen] == [False, False]
    assert seen[0][0].name.startswith(".toy.trash-") and seen[1][0].name.startswith(".other.trash-")


def test_trash_is_emptied_and_only_one_s_own(tmp_path):
    for name in (".toy.trash-1-2", ".toy.trash-3-4", ".toy-py311.trash-1-2", ".toy.old", "toy"):
        (tmp_path / name / "sub").mkdir(parents=True)
    files.empty_trash(tmp_path / "toy")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".toy-py311.trash-1-2", ".toy.old", "toy"]
    files.empty_trash(tmp_path / "not there/toy")


@pytest.mark.parametrize(("process", "idle", "there"), [("dead", 700, False), ("dead", 500, True), ("own", 700, True)])
def test_a_draft_is_cleared_when_its_writer_is_dead_and_it_rests(tmp_path, process, idle, there):
    """A writer on another machine that shares the cache has no process here, but goes on writing."""
    number = os.getpid() if process == "own" else 2**22 + 1  # no Linux has as many
    drafts = [tmp_path / "folder" / f".x.whl.{number}", tmp_path / f".y.{number}-123"]
    kept = [tmp_path / "folder" / "x.whl", tmp_path / "folder" / ".hidden", tmp_path / f"plain.{number}"]
    (tmp_path / "folder").mkdir()
    for path in [*drafts, *kept]:
        path.write_text("")
        os.utime(path, (time.time() - idle,) * 2)
    files.clear_drafts(tmp_path)
    assert [path.exists() for path in drafts] == [there] * 2 and all(path.exists() for path in kept)
    files.clear_drafts(tmp_path / "not there")


@pytest.mark.parametrize(("days", "there"), [(0.9, True), (1.1, False)])
def test_a_scratch_folder_is_cleared_after_a_day(tmp_path, days, there):
    (tmp_path / ".scratch-build-abc/tree").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - days * 86400,) * 2)
    files.clear_drafts(tmp_path)
    assert (tmp_path / ".scratch-build-abc").exists() == there and (tmp_path / "kept").exists()


def test_a_folder_s_own_bytes_are_those_that_deleting_it_frees(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/own").write_bytes(os.urandom(1 << 20))
    (tmp_path / "a/shared").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "a/shared", tmp_path / "elsewhere")
    (tmp_path / "a/link").symlink_to(tmp_path / "elsewhere")
    assert 1 << 20 <= files.own_bytes(tmp_path / "a") < 1.1 * (1 << 20)
    assert files.own_bytes(tmp_path / "none") == 0


def holder(path, ready, seconds, leaving):
    with files.alone(path, "it"):
        ready.set()
        time.sleep(seconds)
        leaving.set()


@pytest.fixture
def held(tmp_path):
    """Another process that holds a lock; returns the lock, the process, and what it sets when it lets go."""
    context = multiprocessing.get_context("fork")
    started = []

    def hold(seconds):
        ready, leaving = context.Event(), context.Event()
        process = context.Process(target=holder, args=(tmp_path / "lock", ready, seconds, leaving))
        process.start()
        started.append(process)
        assert ready.wait(10)
        return tmp_path / "lock", process, leaving

    yield hold
    for process in started:
        process.kill()
        process.join()


def test_the_second_waits_for_the_first_and_says_for_what(held, capsys):
    lock, _, leaving = held(0.6)
    with files.alone(lock, "envs/toy"):
        assert leaving.is_set(), "it did not wait"
    assert capsys.readouterr().err == "another run is working on envs/toy; waiting for it\n"


def test_a_lock_that_nobody_holds_is_taken_without_a_word(tmp_path, capsys):
    for _ in range(2):
        with files.alone(tmp_path / "lock", "it"), (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert capsys.readouterr().err == ""


def test_a_killed_run_holds_nothing(held):
    lock, first, leaving = held(60)
    threading.Timer(0.2, first.kill).start()
    start = time.monotonic()
    with files.alone(lock, "it"):
        assert time.monotonic() - start < 30 and not leaving.is_set()


def test_an_error_lets_go_of_the_lock_and_is_passed_on(tmp_path, capsys):
    with pytest.raises(ZeroDivisionError), files.alone(tmp_path / "lock", "it"):
        1 / 0
    with files.alone(tmp_path / "lock", "it"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_where_there_are_no_locks_it_is_said_and_the_work_is_done(tmp_path, monkeypatch, capsys, number):
    def flock(*arguments):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    done = False
    with files.alone(tmp_path / "lock", "envs/toy"):
        done = True
    assert done
    said = capsys.readouterr().err
    assert said == "warning: the file system of envs/toy has no locks: let no other run work there meanwhile\n"


def test_another_failure_of_the_lock_is_not_hidden(tmp_path, monkeypatch):
    def flock(*arguments):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), files.alone(tmp_path / "lock", "it"):
        pytest.fail("went on without a lock")
