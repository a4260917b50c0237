"""The folder of an environment: whose it is, and what every moment in which a run can end leaves for the next."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from verlock.env import prefix_folder
from verlock.errors import NoBase
from verlock.variant import receipt


@pytest.fixture
def prefix(tmp_path):
    """Where an environment is to be."""
    return tmp_path / "envs/toy"


def put(folder, content, *marks):
    """A folder with one file, and the marks of a half-made or finished environment."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / content).write_text(content)
    for mark in marks:
        (folder / mark).write_text("{}")


def whole(folder, content):
    put(folder, content, prefix_folder.MARKER, receipt.NAME)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def replace(prefix, *, seal):
    with prefix_folder.replacing(prefix):
        put(prefix, "new", *([receipt.NAME] if seal else []))


def test_a_new_folder_is_marked_and_nothing_else(prefix):
    prefix_folder.clear(prefix)
    assert names(prefix) == [prefix_folder.MARKER] and names(prefix.parent) == ["toy"]


def test_a_finished_replacement_stays_and_the_old_one_goes(prefix):
    whole(prefix, "old")
    replace(prefix, seal=True)
    assert names(prefix) == [prefix_folder.MARKER, "new", receipt.NAME] and names(prefix.parent) == ["toy"]


def test_without_a_receipt_the_old_one_comes_back(prefix):
    whole(prefix, "old")
    replace(prefix, seal=False)
    assert names(prefix) == [prefix_folder.MARKER, "old", receipt.NAME] and names(prefix.parent) == ["toy"]


@pytest.mark.parametrize("error", [OSError("no wheels"), KeyboardInterrupt()])
def test_a_failure_takes_nothing_away_leaves_nothing_and_is_passed_on(prefix, error):
    def fail():
        with prefix_folder.replacing(prefix):
            put(prefix, "half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(prefix.parent) == []
    whole(prefix, "old")
    with pytest.raises(type(error)):
        fail()
    assert "old" in names(prefix) and names(prefix.parent) == ["toy"]


@pytest.mark.parametrize("aside", [False, True])
def test_somebody_s_work_is_left_alone_and_so_is_an_environment_beside_it(prefix, aside):
    put(prefix, "thesis.tex")
    if aside:
        whole(prefix_folder.aside_of(prefix), "old")
    with pytest.raises(NoBase, match="was not made by verlock"):
        replace(prefix, seal=True)
    assert names(prefix) == ["thesis.tex"] and names(prefix.parent) == [*([".toy.old"] if aside else []), "toy"]
    shutil.rmtree(prefix)
    prefix_folder.settle(prefix)
    assert prefix.exists() == aside


def test_a_file_in_its_place_is_left_alone(prefix):
    prefix.parent.mkdir()
    prefix.write_text("work")
    with pytest.raises(NoBase):
        replace(prefix, seal=True)
    assert prefix.read_text() == "work"


def test_what_a_killed_run_had_half_made_is_deleted(prefix):
    put(prefix, "half", prefix_folder.MARKER)
    prefix_folder.settle(prefix)
    assert names(prefix.parent) == []


def test_what_was_put_aside_without_a_receipt_is_deleted(prefix):
    """An older verlock put half-made environments aside, too, and deleted them under that name."""
    put(prefix_folder.aside_of(prefix), "half", prefix_folder.MARKER)
    prefix_folder.settle(prefix)
    assert names(prefix.parent) == []


def test_somebody_s_folder_where_an_environment_would_wait_is_left_alone(prefix):
    put(prefix_folder.aside_of(prefix), "thesis.tex")
    replace(prefix, seal=True)
    with pytest.raises(NoBase, match=r"toy\.old exists and was not made by verlock"):
        replace(prefix, seal=True)
    assert receipt.NAME in names(prefix) and names(prefix_folder.aside_of(prefix)) == ["thesis.tex"]


def test_an_environment_of_a_longer_name_is_another(prefix):
    other = prefix.with_name("toy-py311")
    whole(prefix_folder.aside_of(other), "old")
    put(prefix.with_name(".toy-py311.trash-1-1"), "half")
    prefix_folder.settle(prefix)
    assert names(prefix.parent) == [".toy-py311.old", ".toy-py311.trash-1-1"]


class Killed(BaseException):
    """What SIGKILL is to a process: nothing more is done."""


def dying(monkeypatch, after):
    """Let every change of the file system but the first `after` raise Killed, in the clean-up as well; returns what it counts."""
    done = itertools.count()
    # what is called, and the names under which it is reached
    for owner, name in [(os, "rename"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (Path, "write_text")]:
        real = getattr(owner, name)

        def change(*arguments, real=real, **keywords):
            if next(done) >= after:
                raise Killed
            return real(*arguments, **keywords)

        monkeypatch.setattr(owner, name, change)


@pytest.mark.parametrize("seal", [True, False])
def test_killed_before_any_change_of_the_file_system_one_environment_is_whole_afterwards(tmp_path, seal):
    """Every single moment: the old environment is there, or the new one where its receipt was written, and nothing else."""
    for after in itertools.count():
        prefix = tmp_path / str(after) / "toy"
        whole(prefix, "old")
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, after)
            try:
                replace(prefix, seal=seal)
                break
            except Killed:
                pass
        sealed = (prefix / "new").exists() and (prefix / receipt.NAME).exists()
        prefix_folder.settle(prefix)
        assert names(prefix.parent) == ["toy"], f"after {after} changes"
        assert names(prefix) == [prefix_folder.MARKER, "new" if sealed else "old", receipt.NAME], (
            f"after {after} changes"
        )
    assert after > 8
