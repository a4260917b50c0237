"""Writing locks: what need not be made again, and what stays when the last step fails."""

from __future__ import annotations

import shutil

import pytest

from verlock import cli
from verlock.conda import client
from verlock.errors import NetworkError, PatchRejected, ResolutionError
from verlock.locking import lock_diff, lock_writer, resolvers, staleness
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


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["vllm073", "--upgrade", "nosuchpkg"], "--upgrade nosuchpkg: none of the locks of vllm073 has"),
        (["vllm073", "--upgrade", "ray", "transfomers"], "did you mean transformers"),
        (["--upgrade", "vllm073"], "name variants before the option: `nox -s lock -- vllm073 --upgrade"),
    ],
)
def test_a_package_to_upgrade_that_no_lock_has_is_told_at_once(monkeypatch, capsys, line, said):
    monkeypatch.setattr(lock_writer, "serve", lambda: pytest.fail("nothing is resolved"))
    assert cli.main(["lock", *line]) == 12
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ray", "Hydra_Core", "python", "setuptools", "requests"])
def test_a_package_of_any_layer_can_be_upgraded(name):
    wish = lock_writer.Wish((lockfiles.normalise(name),))
    lock_writer._can_move(wish, ["vllm073"], lock_diff.tree())


@pytest.mark.parametrize("fails", [True, False])
def test_all_sets_of_tools_are_written_or_none(clone, monkeypatch, fails):
    def propose(work, name, cutoff, index, *, upgrade):
        if fails and name == "tests":
            raise ResolutionError("no solution")
        return "six==1.0\n"

    monkeypatch.setattr(resolvers, "propose_universal", propose)
    before = content(clone / "locks/tools")
    try:
        lock_writer._tools(lock_writer.Wish(), None)
        after = content(clone / "locks/tools")
        assert not fails and all(after[name] != before[name] for name in before)
        assert staleness.tools() == {}
    except ResolutionError:
        assert fails and content(clone / "locks/tools") == before


def test_sources_that_were_edited_are_made_again(clone, edit):
    chosen = choose("vllm072")
    edit(chosen.locks / lockfiles.SOURCES, '"after": "', '"after": "0000')
    assert not lock_writer._sources_hold(chosen, chosen.locks, content(chosen.locks))


def test_a_conda_layer_that_was_edited_is_not_confirmed_from_itself(clone, edit, tmp_path, monkeypatch):
    chosen = choose("vllm072")
    edit(chosen.locks / lockfiles.CONDA_LOCK, "sha256: ", "sha256: 0000")
    monkeypatch.setattr(client, "reachable", lambda lock, mirrors: False)
    with pytest.raises(NetworkError, match="the conda layer or its lock changed"):
        lock_writer._conda_layer(chosen, lock_writer.Wish(), tmp_path, tmp_path / "out")
