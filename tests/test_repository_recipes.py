"""The recipes of this repository, with their common files, their schema and their patches."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from verlock import paths
from verlock.sources import git_apply, patches
from verlock.variant import lockfiles, recipe, recipe_file
from verlock.variant.chosen import choose, names

NAMES = names()
PATCHED = [name for name in NAMES if choose(name).recipe.patch]


def test_the_six_variants_are_there():
    assert {"vllm070", "vllm071", "vllm072", "vllm073", "v1", "vllm083"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_valid_for_the_model_and_for_the_schema(name):
    loaded = choose(name).recipe
    assert loaded.name == name and loaded.folder == paths.RECIPES / name
    validator = jsonschema.Draft202012Validator(
        json.loads(recipe.SCHEMA.read_text()), format_checker=jsonschema.FormatChecker()
    )
    for file in [loaded.folder / recipe_file.NAME, *(paths.RECIPES / "common").glob("*.toml")]:
        data = json.loads(json.dumps(recipe_file.toml(file), default=str))
        assert not list(validator.iter_errors(data)), file


def test_the_written_schema_is_the_generated_one():
    assert json.loads(recipe.SCHEMA.read_text()) == recipe.schema(), "write it: python -m verlock schema"


@pytest.mark.parametrize("file", sorted(paths.RECIPES.glob("*/*.toml")), ids=lambda file: file.parent.name + file.stem)
def test_each_file_names_the_schema_for_editors(file):
    assert file.read_text().startswith("#:schema ../schema.json\n")


def test_every_common_file_is_included_somewhere():
    included = {name for variant in NAMES for name in choose(variant).recipe.include}
    assert included == {file.stem for file in (paths.RECIPES / "common").glob("*.toml")}


def test_no_sentence_of_a_recipe_stands_twice():
    """What several recipes share is included; the exceptions are few and short."""
    lines = [line for file in paths.RECIPES.glob("*/*.toml") for line in set(file.read_text().splitlines())]
    long = [line for line in lines if len(line) > 60 and re.match(r"(reason|flags_reason) =", line)]
    twice = {line for line in long if long.count(line) > 1}
    assert {line.split(" =")[0] for line in twice} <= {"flags_reason"}


@pytest.mark.parametrize("name", NAMES)
def test_torch_is_the_locked_one_and_each_artefact_file_is_what_its_name_says(name):
    loaded = choose(name).recipe
    for chosen in choose(name).pythons():
        pins = {pin.name: pin.version for pin in lockfiles.pins(chosen.locks / lockfiles.REQUIREMENTS)}
        assert pins["torch"].startswith(f"{loaded.torch.version}.")
    for artefact in loaded.artefact:
        for file in artefact.file:
            abi, tag = str(file.cxx11abi).upper(), f"cp{file.python.replace('.', '')}"
            assert f"{artefact.version}%2B" in file.url and f"torch{file.torch}cxx11abi{abi}-{tag}-" in file.url
        assert artefact.file_for(loaded.torch, "2.7") is None


@pytest.mark.parametrize("name", NAMES)
def test_every_patch_has_its_file_and_every_file_its_entry(name):
    loaded = choose(name).recipe
    files = sorted(path.name for path in loaded.folder.glob("patches/*"))
    assert files == [patch.file for patch in loaded.patch]


@pytest.mark.parametrize("name", PATCHED)
def test_the_recipes_patches_say_what_and_why(name):
    loaded = choose(name).recipe
    for patch in loaded.patch:
        text = loaded.patch_path(patch).read_text()
        message, _, _ = text.partition("\n--- a/")
        title, _, why = message.partition("\n\n")
        assert patch.file[5:-6] == re.sub(r"[^A-Za-z0-9_]+", "-", title).strip("-")
        assert (patch.upstream or patch.upstream_link.rpartition("/")[2]) in why
        assert git_apply.split(text, patch.file)


@pytest.mark.parametrize("name", PATCHED)
def test_the_recipes_patches_are_the_locked_ones(name):
    for chosen in choose(name).pythons():
        locked = [(entry["file"], entry["sha256"]) for entry in lockfiles.sources(chosen.locks)["patches"]]
        assert locked == [(file.patch.file, file.sha256) for file in patches.read(chosen.recipe)]
