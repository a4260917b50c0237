"""What decides a lock: its inputs, and the hashes over them."""

from __future__ import annotations

import pytest

from verlock.errors import LockError
from verlock.locking import lock_inputs
from verlock.variant import lockfiles
from verlock.variant.chosen import choose, names
from verlock.variant.recipe import Override

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


def with_override(chosen):
    aside = Override(requirer="verl", requirement="numpy<2", reason="a", link="https://example.org")
    vars(chosen)["recipe"] = chosen.recipe.model_copy(update={"override": [aside]})
    return chosen


def test_an_override_is_an_input_of_the_runtime_s_file_alone_and_is_said_in_its_header():
    plain, aside = choose("vllm073"), with_override(choose("vllm073"))
    for name, differs in ((lockfiles.REQUIREMENTS, True), (lockfiles.BUILD_REQUIREMENTS, False)):
        assert (lock_inputs.input_digest(plain, name) != lock_inputs.input_digest(aside, name)) is differs
        line = "# Set aside: verl asks for numpy<2 (recipes/vllm073 says why).\n"
        assert (line in lock_inputs.header(aside, name)) is differs
        assert lock_inputs.header(aside, name).count("\n") == 3 + differs


def test_the_compiler_is_that_of_the_cuda_where_there_is_one(clone):
    chosen = choose("v1")
    assert lock_inputs.environment_files(chosen)[2].name == "compiler.yml"
    (clone / "environments/common/compiler-cuda-12.4.yml").write_text(
        "channels: [conda-forge]\ndependencies: [gcc 13.*]\n"
    )
    assert lock_inputs.environment_files(chosen)[2].name == "compiler-cuda-12.4.yml"
