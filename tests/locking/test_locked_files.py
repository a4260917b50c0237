"""files.json: which file of a release the locked platform takes, and what is said of it."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import fakeindex
import pytest

from verlock.errors import LockError, ResolverDisagreement
from verlock.locking import locked_files, loopback_index, wheel_tags
from verlock.locking.loopback_index import File
from verlock.system import files
from verlock.variant import lockfiles
from verlock.variant.chosen import choose
from verlock.variant.lockfiles import Pin

DAY = datetime(2025, 1, 1, tzinfo=timezone.utc)
RANKS = wheel_tags.supported("3.10", "2.28")


def offered(*names):
    return [File(name, "", f"{place:064x}", DAY, None) for place, name in enumerate(names)]


def taken(*names):
    listed = offered(*names)
    pin = Pin("alpha", "1.0", tuple(f"sha256:{file.sha256}" for file in listed))
    return locked_files.taken(pin, listed, RANKS).filename


@pytest.mark.parametrize(
    ("best", "others"),
    [
        ("alpha-1.0-cp310-cp310-manylinux_2_28_x86_64.whl", ["alpha-1.0-cp310-cp310-manylinux_2_17_x86_64.whl"]),
        ("alpha-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", ["alpha-1.0-cp310-cp310-manylinux_2_34_x86_64.whl"]),
        ("alpha-1.0-cp310-cp310-manylinux1_x86_64.whl", ["alpha-1.0-cp39-abi3-manylinux_2_28_x86_64.whl"]),
        ("alpha-1.0-cp310-cp310-manylinux2014_x86_64.whl", ["alpha-1.0-cp310-cp310-manylinux_2_12_x86_64.whl"]),
        ("alpha-1.0-cp39-abi3-manylinux_2_28_x86_64.whl", ["alpha-1.0-py3-none-any.whl"]),
        ("alpha-1.0-py3-none-any.whl", ["alpha-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "alpha-1.0-py2-none-any.whl"]),
        ("alpha-1.0-py3-none-any.whl", ["alpha-1.0-cp310-cp310-win_amd64.whl", "alpha-1.0-cp310-cp310-linux_aarch64.whl"]),
        ("alpha-1.0-2-py3-none-any.whl", ["alpha-1.0-1-py3-none-any.whl", "alpha-1.0-py3-none-any.whl"]),
        ("alpha-1.0-py3-none-any.whl", ["alpha-1.0.tar.gz"]),
        ("alpha-1.0.tar.gz", []),
    ],
)  # fmt: skip
def test_the_best_file_for_the_locked_platform_is_taken(best, others):
    assert taken(best, *others) == taken(*others, best) == best


def test_a_file_that_is_not_locked_is_never_taken():
    better, locked = offered("alpha-1.0-cp310-cp310-manylinux_2_28_x86_64.whl", "alpha-1.0-py3-none-any.whl")
    pin = Pin("alpha", "1.0", (f"sha256:{locked.sha256}",))
    assert locked_files.taken(pin, [better, locked], RANKS) == locked
    with pytest.raises(ResolverDisagreement, match=r"no file of alpha 1\.0 that is locked and fits"):
        locked_files.taken(pin, [better], RANKS)


def test_a_release_without_a_file_for_the_platform_is_refused():
    with pytest.raises(ResolverDisagreement, match=r"alpha 1\.0"):
        taken("alpha-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", "alpha-1.0-cp310-cp310-macosx_11_0_arm64.whl")


@pytest.fixture
def toy(tmp_path):
    """An index with one package, and a folder with a lock of it."""
    with fakeindex.serve() as made:
        sha256 = made.release("alpha", "1.0", "2025-01-01")
        (tmp_path / lockfiles.REQUIREMENTS).write_text(f"alpha==1.0 --hash=sha256:{sha256}\n")
        (tmp_path / lockfiles.BUILD_REQUIREMENTS).write_text("")
        yield tmp_path, made, sha256


def test_name_size_hash_and_upload_time_are_written_and_no_address(toy):
    folder, made, sha256 = toy
    with loopback_index.serve(made.url) as index:
        (folder / lockfiles.FILES).write_text(locked_files.text(choose("vllm073"), folder, index))
    listed = lockfiles.files(folder)
    name = "alpha-1.0-py3-none-any.whl"
    assert listed[lockfiles.REQUIREMENTS]["sha256"] == files.sha256(folder / lockfiles.REQUIREMENTS)
    assert listed[lockfiles.REQUIREMENTS]["files"] == [
        {"package": "alpha", "version": "1.0", "filename": name, "size": len(made.files["alpha"][name][0]),
         "sha256": sha256, "uploaded": "2025-01-01T12:00:00Z"}
    ]  # fmt: skip
    assert listed[lockfiles.BUILD_REQUIREMENTS]["files"] == []
    assert "://" not in (folder / lockfiles.FILES).read_text()


@pytest.mark.parametrize("left_out", ["size", "upload-time"])
def test_an_index_that_does_not_say_enough_is_refused(toy, monkeypatch, left_out):
    folder, made, _ = toy
    real = made.page

    def page(*arguments):
        answer = real(*arguments)
        del answer["files"][0][left_out]
        return answer

    monkeypatch.setattr(made, "page", page)
    with (
        loopback_index.serve(made.url) as index,
        pytest.raises(ResolverDisagreement, match=r"says no size or no upload time of alpha-1\.0-py3-none-any\.whl"),
    ):
        locked_files.text(choose("vllm073"), folder, index)


@pytest.mark.parametrize(
    "change",
    [{"filename": "../x.whl"}, {"filename": "a/b.whl"}, {"sha256": "0"}, {"size": -1}, {"size": "1"}, {"uploaded": None}],
)  # fmt: skip
def test_a_list_of_another_form_is_refused(toy, change):
    folder, made, _ = toy
    with loopback_index.serve(made.url) as index:
        locked = json.loads(locked_files.text(choose("vllm073"), folder, index))
    locked[lockfiles.REQUIREMENTS]["files"][0].update(change)
    (folder / lockfiles.FILES).write_text(json.dumps(locked))
    with pytest.raises(LockError, match=r"files\.json is not a list of locked files"):
        lockfiles.files(folder)
