"""Writing locks: what need not be made again, and what stays when the last step fails."""

from __future__ import annotations

import shutil

import pytest

from verlock.errors import PatchRejected
from verlock.locking import lock_writer
from verlock.sources import patches
from verlock.variant import lockfiles
from verlock.variant.chosen import choose


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_sources_are_kept_while_all_they_are_made_of_is(clone):
    chosen = choose("vllm072")
    folder, old = chosen.locks, content(chosen.locks)
    assert lock_writer._sources_hold(chosen, folder, old)
    assert not lock_writer._sources_hold(chosen, folder, {**old, lockfiles.REQUIREMENTS: b"another pin"})
    without = {name: data for name, data in old.items() if name != lockfiles.SOURCES}
    assert not lock_writer._sources_hold(chosen, folder, without)
    patch = next((clone / "recipes/vllm072/patches").glob("*.patch"))
    patch.write_text(patch.read_text() + "\n")
    assert not lock_writer._sources_hold(chosen, folder, old)


def test_a_patch_that_does_not_apply_brings_the_old_lock_back(clone, tmp_path, monkeypatch):
    chosen = choose("vllm072")
    before = content(chosen.locks)
    out = tmp_path / "out"
    shutil.copytree(chosen.locks, out)
    for name in (lockfiles.CONDA_LOCK, lockfiles.REQUIREMENTS):
        (out / name).write_bytes(before[name] + b"# new\n")
    seen = []

    def fail(asked):
        seen.append(content(asked.locks)[lockfiles.REQUIREMENTS])
        raise PatchRejected("it does not apply")

    monkeypatch.setattr(patches, "lock", fail)
    with pytest.raises(PatchRejected):
        lock_writer._land(chosen, out, chosen.locks)
    assert seen == [before[lockfiles.REQUIREMENTS] + b"# new\n"], "it is made from the new pins"
    assert content(chosen.locks) == before


@pytest.mark.parametrize("first", [True, False])
def test_the_pins_to_stay_with_are_its_own_else_those_of_the_first_python(clone, first):
    chosen = choose("vllm073", "3.11")
    if first:
        (chosen.locks / lockfiles.REQUIREMENTS).unlink()
    preferred = lock_writer._preferences(chosen, lockfiles.REQUIREMENTS)
    lock = choose("vllm073", "3.10" if first else "3.11").locks / lockfiles.REQUIREMENTS
    pins = [f"{pin.name}=={pin.version}" for pin in lockfiles.pins(lock)]
    assert preferred.splitlines() == pins
