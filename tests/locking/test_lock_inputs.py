"""What decides a lock: its inputs, and the hashes over them."""

from __future__ import annotations

import pytest

from verlock.errors import LockError
from verlock.locking import lock_inputs
from verlock.variant import lockfiles
from verlock.variant.chosen import choose, names

CHOSEN = [chosen for variant in names() for chosen in choose(variant).pythons()]


@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda chosen: f"{chosen.name}-{chosen.python}")
def test_the_content_hash_is_conda_locks_own(chosen):
    text = (chosen.locks / lockfiles.CONDA_LOCK).read_text()
    assert f"  content_hash:\n    linux-64: {lock_inputs.conda_content_hash(chosen)}\n" in text


def test_each_python_has_inputs_of_its_own():
    pythons = choose("vllm073").pythons()
    assert len({lock_inputs.input_digest(chosen) for chosen in pythons}) == len(pythons) > 1
    assert [lock_inputs.environment_files(chosen)[1].name for chosen in pythons] == [
        f"python-{chosen.python}.yml" for chosen in pythons
    ]


def test_an_include_that_is_missing_is_named_with_who_asks_for_it(clone):
    source = clone / "environments/vllm073/requirements.in"
    source.write_text("-r ../common/gone.in\n")
    with pytest.raises(LockError, match=r"environments/common/gone\.in is missing") as caught:
        lock_inputs.input_digest(choose("vllm073"))
    assert caught.value.remedy == "environments/vllm073/requirements.in asks for it"


def test_a_tools_input_without_its_date_is_refused(clone, edit):
    edit(clone / "environments/tools/requirements.in", "# cut-off:", "# cutoff:")
    with pytest.raises(LockError, match="cut-off"):
        lock_inputs.tools_header(lockfiles.BASE_TOOLS)
