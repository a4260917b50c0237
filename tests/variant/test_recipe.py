"""Validating a recipe: what a typo gets, and that the schema for editors refuses it too."""

from __future__ import annotations

import json

import jsonschema
import pytest

from verlock import paths
from verlock.errors import RecipeError
from verlock.variant import recipe, recipe_file
from verlock.variant.chosen import choose


def test_the_schema_refuses_what_the_model_refuses():
    schema = jsonschema.Draft202012Validator(recipe.schema())
    data = json.loads(json.dumps(recipe_file.toml(paths.RECIPES / "vllm073/recipe.toml"), default=str))
    assert schema.is_valid(data)
    for key, value in (
        ("sumary", "x"),
        ("python", "3.10"),
        ("python", []),
        ("vllm", {"version": "1"}),
        ("include", "x"),
    ):
        assert not schema.is_valid({**data, key: value})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "cuda_graphs =",
            "cuda_graps =",
            "vllm.cuda_graps: unknown key; did you mean 'cuda_graphs'? allowed here: version, engine",
        ),
        (
            "summary =",
            "sumary =",
            "sumary: unknown key; did you mean 'summary'? allowed here: summary, include, python",
        ),
        ("[cutoff]", "[cutof]", "cutof: unknown key; did you mean 'cutoff'?"),
        ('engine = "V0"', 'engine = "V2"', "vllm.engine: Input should be 'V0' or 'V1'"),
        ('engine = "V0"\n', "", "vllm.engine: Field required"),
        ("date = 2025-04-03", 'date = "soon"', "cutoff.date: "),
        (
            'package = "antlr4',
            'pakage = "antlr4',
            "sdist.0.pakage: unknown key; did you mean 'package'? allowed here: package, reason",
        ),
        ('torch = "2.5"', "torch = 2.5", "artefact.0.file.0.torch: Input should be a valid string"),
        ('torch = "2.5"', 'troch = "2.5"', "artefact.0.file.0.troch: unknown key; did you mean 'torch'?"),
        (
            'python = "3.10"',
            'python = "3.11"',
            "artefact flash-attn has two files for torch 2.5, cxx11abi False, Python 3.11",
        ),
        ('python = ["3.10"', "python = [3.10", "python.0: Input should be a valid string"),
        ('sha256 = "c59b', 'sha256 = "C59B', "artefact.0.file.0.sha256: "),
        ("disk = 8_000_000_000", "disk = 0", "platform.disk: Input should be greater than 0"),
        ('VLLM_USE_V1 = "0"', "VLLM_USE_V1 = 0", "vllm.environment.VLLM_USE_V1: Input should be a valid string"),
    ],
)
def test_a_typo_is_named_with_file_key_and_what_is_allowed(clone, edit, old, new, said):
    files = [clone / "recipes/vllm073/recipe.toml", *sorted((clone / "recipes/common").glob("*.toml"))]
    edit(
        next(file for file in files if old in file.read_text() and file.stem not in ("verl-0.4", "torch-2.6")), old, new
    )
    with pytest.raises(RecipeError) as caught:
        choose("vllm073").recipe
    assert (
        "recipes/vllm073/recipe.toml (with common/linux.toml" in caught.value.problem and said in caught.value.problem
    )
    assert "schema.json" in caught.value.remedy


def test_a_typo_in_a_nested_optional_table(clone, edit):
    edit(clone / "recipes/v1/recipe.toml", 'filename = "vllm-0.7.3', 'filname = "vllm-0.7.3')
    with pytest.raises(RecipeError, match=r"source\.precompiled\.filname: unknown key; did you mean 'filename'\?"):
        choose("v1").recipe


def test_several_mistakes_are_all_named(clone, edit):
    path = clone / "recipes/vllm073/recipe.toml"
    edit(path, "summary =", "sumary =")
    edit(path, "compiles = false", 'compiles = "perhaps"')
    with pytest.raises(RecipeError) as caught:
        choose("vllm073").recipe
    assert all(word in caught.value.problem for word in ("sumary: ", "summary: Field required", "vllm.compiles: "))


def test_a_broken_recipe_does_not_break_the_others(clone, edit):
    edit(clone / "recipes/vllm073/recipe.toml", "summary =", "sumary =")
    with pytest.raises(RecipeError):
        choose("vllm073").valid()
    assert choose("vllm072").recipe.name == "vllm072"


@pytest.mark.parametrize("requirement", ["numpy<2.0.0", "ray[default]>=2.41", 'six; python_version < "3.13"'])
def test_an_override_names_one_requirement(requirement):
    made = recipe.Override(requirer="verl", requirement=requirement, reason="a", link="https://example.org")
    assert made.said == f"verl asks for {requirement}"


@pytest.mark.parametrize("requirement", ["", "numpy <<2", "numpy<2 numpy>1"])
def test_an_override_of_no_requirement_is_refused(requirement):
    with pytest.raises(ValueError, match="requirement"):
        recipe.Override(requirer="verl", requirement=requirement, reason="a", link="https://example.org")
