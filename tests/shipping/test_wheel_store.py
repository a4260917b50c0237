"""The wheel store: files by sha256, fetched once, hashed at every use, dropped when no lock names them."""

from __future__ import annotations

import dataclasses

import pytest

from verlock import paths
from verlock.errors import LockError, NetworkError
from verlock.shipping import wheel_store


def test_files_are_fetched_once_and_asked_for_no_more(small):
    wanted = wheel_store.of_lock(small.chosen.locks)
    assert [each.package for each in wanted] == ["alpha", "beta"]
    wheel_store.have(wanted)
    asked = dict(small.index.asked)
    wheel_store.have(wanted)
    assert small.index.asked == asked
    assert (
        wheel_store.size()
        == sum(each.size for each in wanted)
        == sum(wheel_store.place(w).stat().st_size for w in wanted)
    )


def test_a_damaged_file_is_fetched_again_and_said(small, capsys):
    wanted = wheel_store.of_lock(small.chosen.locks)
    wheel_store.have(wanted)
    good = wheel_store.place(wanted[0]).read_bytes()
    wheel_store.place(wanted[0]).write_bytes(good[:-1] + b"x")
    wheel_store.have(wanted)
    assert wheel_store.place(wanted[0]).read_bytes() == good
    assert "is damaged and is fetched again" in capsys.readouterr().err


def test_a_file_that_the_index_lacks_is_named_and_leaves_nothing(small):
    wanted = [dataclasses.replace(wheel_store.of_lock(small.chosen.locks)[0], sha256="0" * 64)]
    with pytest.raises(NetworkError, match=r"does not have alpha-1\.0"):
        wheel_store.have(wanted)
    assert not list(wheel_store.root().glob("*/*"))


def test_a_list_of_files_that_is_of_other_pins_is_refused(small):
    for name in ("requirements.txt", "build-requirements.txt"):
        path = small.locks / name
        before = path.read_text()
        path.write_text(before + "# edited\n")
        with pytest.raises(LockError, match="made from other pins"):
            wheel_store.of_lock(small.chosen.locks)
        path.write_text(before)


def test_tools_are_those_that_fit_the_python_and_are_looked_up_once(small):
    first = small.index.release("delta", "1.0", "2025-01-01", tag="cp310-cp310-manylinux_2_17_x86_64")
    other = small.index.release("delta", "1.0", "2025-01-01", tag="cp312-cp312-manylinux_2_17_x86_64")
    old = small.index.release("old", "1.0", "2025-01-01")
    lock = paths.LOCKS / "tools" / "front.txt"
    lock.write_text(
        f"delta==1.0 --hash=sha256:{first} --hash=sha256:{other}\n"
        f"old==1.0 ; python_full_version < '3.11' --hash=sha256:{old}\n"
        f"old==2.0 ; python_full_version >= '3.13' --hash=sha256:{'0' * 64}\n"
    )
    assert [each.sha256 for each in wheel_store.of_tools(lock, "3.10", "2.28")] == [first, old]
    assert [each.sha256 for each in wheel_store.of_tools(lock, "3.12", "2.28")] == [other]
    asked = dict(small.index.asked)
    wheel_store.of_tools(lock, "3.12", "2.28")
    assert small.index.asked == asked


def test_prune_drops_what_no_lock_names_and_nothing_else(small):
    wanted = wheel_store.of_lock(small.chosen.locks)
    wheel_store.have(wanted)
    stray = wheel_store.root() / ("f" * 64) / "stray-1-py3-none-any.whl"
    stray.parent.mkdir()
    stray.write_bytes(b"12345")
    assert wheel_store.prune() == 5
    assert not stray.exists() and all(wheel_store.place(each).exists() for each in wanted)
