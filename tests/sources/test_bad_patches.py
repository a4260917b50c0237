"""Whatever a patch file or its lock holds: it is applied within the tree, or refused with an error that has words."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import baddata
from hypothesis import given, settings
from toysource import diff

from verlock.errors import VerlockError
from verlock.sources import patches
from verlock.sources.git_apply import Stage, split
from verlock.variant import lockfiles

OLD = "".join(f"line {number}\n" for number in range(1, 30))
PATCH = diff("pkg/one.txt", OLD, OLD.replace("line 3\n", "line three\n").replace("line 25\n", ""))


def tree(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@settings(max_examples=25)
@given(text=baddata.edited(PATCH))
def test_a_patch_stays_within_its_scratch_folder(text):
    with tempfile.TemporaryDirectory() as name:
        root, scratch = Path(name) / "a/site", Path(name) / "b/scratch"
        (root / "pkg").mkdir(parents=True)
        (root / "pkg/one.txt").write_text(OLD)
        scratch.mkdir(parents=True)
        before = tree(Path(name) / "a")
        with contextlib.suppress(VerlockError):
            hunks = split(text, "0001-Toy.patch")
            stage = Stage(root, [hunk.path for hunk in hunks], scratch)
            stage.run(text.encode())
        assert (root / "pkg/one.txt").read_text() == OLD and tree(Path(name) / "a") == before
        assert {path.name for path in Path(name).iterdir()} == {"a", "b"}
        assert [path.name for path in (Path(name) / "b").iterdir()] == ["scratch"]


LOCKED = {
    "patches": [
        {
            "file": "0001-Toy.patch",
            "sha256": "a" * 64,
            "touches": [{"path": "pkg/one.txt", "before": "b" * 64, "after": "c" * 64}],
        }
    ],
    "wheel": None,
}


@settings(max_examples=40)
@given(locked=baddata.replaced(LOCKED))
def test_a_lock_of_sources_names_nothing_outside_the_tree(locked):
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(VerlockError):
        (Path(name) / lockfiles.SOURCES).write_text(json.dumps(locked))
        chains = patches._chains(lockfiles.sources(Path(name)))
        assert all((Path(name) / path).resolve().is_relative_to(Path(name).resolve()) for path in chains)
