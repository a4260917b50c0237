"""What changed between two states of locks/."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from verlock import paths
from verlock.errors import LockError
from verlock.locking import lock_diff, lock_inputs
from verlock.locking.lock_diff import Change, Entry, compare
from verlock.variant import lockfiles
from verlock.variant.chosen import names

A, B = frozenset(["a" * 64]), frozenset(["b" * 64])


def test_each_kind_of_change_has_its_name():
    old = {
        ("v", "pip"): {
            "gone": Entry("1", A),
            "up": Entry("1.9", A),
            "down": Entry("2", A),
            "same": Entry("1", A),
            "bytes": Entry("1", A),
        },
        ("v", "conda"): {"built": Entry("1", A, "built-1-0.conda"), "replaced": Entry("1", A, "replaced-1-0.conda")},
    }
    new = {
        ("v", "pip"): {
            "come": Entry("1", A),
            "up": Entry("1.10", B),
            "down": Entry("2rc1", B),
            "same": Entry("1", A),
            "bytes": Entry("1", B),
        },
        ("v", "conda"): {"built": Entry("1", B, "built-1-1.conda"), "replaced": Entry("1", B, "replaced-1-0.conda")},
    }
    assert [(change.layer, change.package, change.kind) for change in compare(old, new)] == [
        ("conda", "built", "rebuilt"), ("conda", "replaced", "re-hashed"), ("pip", "bytes", "re-hashed"),
        ("pip", "come", "added"), ("pip", "down", "down"), ("pip", "gone", "removed"), ("pip", "up", "up"),
    ]  # fmt: skip
    assert compare(old, old) == []


versions = st.from_regex(
    r"[0-9]{1,2}(\.[0-9]{1,2}){0,3}(a[0-9]|b[0-9]|rc[0-9]|\.post[0-9]|\.dev[0-9])?", fullmatch=True
)


@given(versions, versions)
def test_versions_are_ordered_as_the_standard_does(one, two):
    standard = (Version(one) > Version(two)) - (Version(one) < Version(two))
    ours = (lock_diff.order(one) > lock_diff.order(two)) - (lock_diff.order(one) < lock_diff.order(two))
    assert ours == standard


@pytest.mark.parametrize(
    ("low", "high"),
    [("1.1.1v", "1.1.1w"), ("2026.7.4", "2026.7.22"), ("4.9.3", "4.10"), ("3.0a32", "3.0"), ("78.1.0", "78.1.0.post1")],
)
def test_versions_of_conda_are_ordered_too(low, high):
    assert lock_diff.order(low) < lock_diff.order(high)


def test_the_order_of_reading_does_not_matter():
    tree = lock_diff.tree()
    assert {place for place, _ in tree} >= {lockfiles.TOOLS, *names()}
    shuffled = list(tree.items())
    random.Random(1).shuffle(shuffled)
    assert compare(tree, dict(shuffled)) == []


def test_rehashed_comes_first_and_in_words(capsys):
    changes = [Change("v", "pip", "up", "up", "1", "2"), Change("v", "pip", "bad", "re-hashed", "1", "1")]
    lock_diff.show(changes, empty="", error_stream=False)
    said = capsys.readouterr().out
    assert said.startswith(" RE-HASHED ")
    assert said.index("bad") < said.index("up ")
    assert "1 up, 1 re-hashed" in said
    assert (
        lock_diff.as_markdown(changes) == "- `v`\n  - `up` 1 → 2\n  - **`bad` 1 re-hashed: same version, other bytes**"
    )


def test_a_whole_new_layer_is_one_line(capsys):
    new = {("v", "pip"): {f"p{number}": Entry("1", A) for number in range(30)}}
    lock_diff.show(compare({}, new), empty="", error_stream=False)
    assert "30 packages" in capsys.readouterr().out
    assert lock_diff.as_markdown(compare({}, new)) == "- `v`\n  - 30 packages added"


def test_markdown_names_the_layer_when_it_is_not_pips():
    changes = [
        Change("v1", "conda", "git", "up", "2.50", "2.51"),
        Change("v1", "sources", "vllm", "removed", "2275", ""),
    ]
    assert lock_diff.as_markdown(changes) == "- `v1`\n  - `git` 2.50 → 2.51 (conda)\n  - `vllm` 2275 removed (sources)"


def test_a_universal_lock_keeps_both_versions_of_a_package():
    tools = lock_diff.tree()[lockfiles.TOOLS, "tests"]
    twice = [name for name, entry in tools.items() if "," in entry.version]
    assert "hypothesis" in twice
    assert len(tools["hypothesis"].hashes) > 2


def test_each_set_of_tools_is_a_layer_and_other_files_are_none(clone):
    (clone / "locks/tools/docs.txt").write_text(f"sphinx==9.0 --hash=sha256:{'a' * 64}\n")
    (clone / "locks/tools/README.md").write_text("no lock\n")
    (clone / "locks/v1/notes.txt").write_text("no lock\n")
    tree = lock_diff.tree(paths.LOCKS)
    assert tree[lockfiles.TOOLS, "docs"]["sphinx"].version == "9.0"
    layers = {layer for place, layer in tree if place in (lockfiles.TOOLS, "v1")}
    further = {*lock_inputs.tools_sets()} - {lockfiles.BASE_TOOLS}
    assert {"tests", "lint"} <= further and layers == {"pip", "docs", "conda", "build", "sources", *further}


def test_unknown_revisions_are_told():
    with pytest.raises(LockError, match="no-such-branch"):
        lock_diff.tree(revision="no-such-branch")
    with pytest.raises(LockError, match="two revisions"):
        lock_diff.run(["a", "b", "c"])


def test_a_file_that_is_no_lock_is_told(clone):
    (clone / "locks/v1/requirements.txt").write_text("torch\n")
    with pytest.raises(LockError, match=r"v1/requirements\.txt holds no pins"):
        lock_diff.tree(paths.LOCKS)
