"""Unified diffs: which are refused, and that each hunk is a patch of its own."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toysource import diff

from verlock.errors import PatchRejected
from verlock.sources import git_apply


@pytest.mark.parametrize(
    "text",
    [
        "no diff at all\n",
        "--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+x\n",
        "--- a/old.py\n+++ b/new.py\n@@ -1 +1 @@\n-x\n+y\n",
        "--- a/../../etc/x\n+++ b/../../etc/x\n@@ -1 +1 @@\n-x\n+y\n",
    ],
)
def test_refuses_what_is_no_change_in_place(text):
    with pytest.raises(PatchRejected):
        git_apply.split(text, "x.patch")


lines = st.lists(
    st.sampled_from(["a", "b", "", "    c", "- d", "+ e", "@@ -1 +1 @@", "--- a/x", "+++ b/x"]), min_size=0, max_size=40
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=lines, new=lines)
def test_each_hunk_is_a_patch_of_its_own(tmp_path_factory, old, new):
    before, after = ("".join(f"{line}\n" for line in side) for side in (old, new))
    if not before or not after or before == after:
        return
    hunks = git_apply.split(diff("x", before, after), "x.patch")
    root, scratch = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("scratch")
    (root / "x").write_text(before)
    stage = git_apply.Stage(root, ["x"], scratch)
    for hunk in reversed(hunks):  # from the end, so that no offset is needed and git must find the very place
        assert stage.run(hunk.text.encode()) is None
    assert (scratch / "x").read_text() == after
    assert (root / "x").read_text() == before
