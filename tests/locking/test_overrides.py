"""An override that is no longer needed is refused; whether uv finds a solution without one is tried in tests/e2e."""

from __future__ import annotations

import re

import fakeindex
import pytest

from verlock.errors import OverrideUnneeded, ResolutionError
from verlock.locking import loopback_index, overrides, resolvers
from verlock.variant.lockfiles import Pin
from verlock.variant.recipe import Override


@pytest.fixture
def needed(clone, tmp_path, monkeypatch):
    """Asks whether one override is needed, in a lock of verl 1.0 and some numpy; uv `finds` a solution or does not."""
    with fakeindex.serve() as made, loopback_index.serve(made.url) as server:
        verl = made.release("verl", "1.0", "2025-01-01", "numpy<2.0.0", "six", "tail; extra == 'x'")
        target = resolvers.Target("3.10", "2.28", None)
        without = []

        def propose(question, index, *, upgrade):
            without.append((question.overrides, question.output, upgrade))
            if not finds:
                raise ResolutionError("no")
            return []

        def ask(numpy, requirer="verl", requirement="numpy<2.0.0", found=False):
            nonlocal finds
            finds = found
            aside = Override(requirer=requirer, requirement=requirement, reason="a", link="https://example.org")
            pins = [Pin("verl", "1.0", (f"sha256:{verl}",)), Pin("numpy", numpy, ())]
            overrides.needed(resolvers.Question(tmp_path, "a.in", "a.txt", target, "", (aside,)), server, pins)

        finds = False
        monkeypatch.setattr(resolvers, "propose", propose)
        ask.without = without
        yield ask


def test_one_without_which_there_is_no_solution_is_needed(needed):
    needed("2.1")
    assert needed.without == [((), "without-override.txt", [])], (
        "asked once, without it, and nothing of the lock is overwritten"
    )


def test_one_without_which_uv_finds_a_solution_is_not(needed):
    with pytest.raises(OverrideUnneeded, match="uv finds a solution that keeps to it"):
        needed("2.1", found=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("1.26.4",), r"the lock has numpy 1\.26\.4: it is met"),
        (("2.1", "vllm"), "vllm is not locked"),
        (("2.1", "verl", "numpy<3"), r"verl 1\.0 does not ask for numpy<3.*\n.*it asks for numpy<2\.0\.0: write that"),
        (("2.1", "verl", "scipy"), r"does not ask for scipy.*\n.*delete that"),
        (("2.1", "verl", 'tail; extra == "x"'), "the lock has no such package"),
    ],
)
def test_one_that_sets_aside_nothing_is_refused(needed, arguments, said):
    with pytest.raises(OverrideUnneeded) as caught:
        needed(*arguments)
    assert re.search(said, str(caught.value)) and not needed.without
