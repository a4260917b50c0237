"""Recipes: the six that are there, what a typo gets, and the schema that editors read."""

from __future__ import annotations

import json
import sys

import jsonschema
import pytest

from verlock import project, recipe
from verlock.errors import RecipeError, UnknownVariant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = recipe.names()


def test_the_six_variants_are_there():
    assert {"vllm070", "vllm071", "vllm072", "vllm073", "v1", "vllm083"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_valid_for_the_model_and_for_the_schema(name):
    loaded = recipe.load(name)
    assert loaded.name == name and loaded.folder == project.RECIPES / name
    data = tomllib.loads((loaded.folder / "recipe.toml").read_text(encoding="utf-8"))
    plain = json.loads(json.dumps(data, default=str))
    validator = jsonschema.Draft202012Validator(
        json.loads(recipe.SCHEMA.read_text()), format_checker=jsonschema.FormatChecker()
    )
    assert not list(validator.iter_errors(plain))


def test_the_schema_refuses_what_the_model_refuses():
    schema = jsonschema.Draft202012Validator(recipe.schema())
    data = json.loads(
        json.dumps(tomllib.loads((project.RECIPES / "vllm073/recipe.toml").read_text(encoding="utf-8")), default=str)
    )
    assert schema.is_valid(data)
    for key, value in (("sumary", "x"), ("python", "3.10"), ("python", []), ("vllm", {"version": "1"})):
        assert not schema.is_valid({**data, key: value})


def test_the_written_schema_is_the_generated_one():
    assert json.loads(recipe.SCHEMA.read_text()) == recipe.schema(), "write it: python -m verlock schema"


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_names_the_schema_for_editors(name):
    assert (project.RECIPES / name / "recipe.toml").read_text().startswith("#:schema ../schema.json\n")


@pytest.mark.parametrize("name", NAMES)
def test_every_patch_has_its_file_and_every_file_its_entry(name):
    loaded = recipe.load(name)
    files = sorted(path.name for path in loaded.folder.glob("patches/*"))
    assert files == [patch.file for patch in loaded.patch]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "cuda_graphs =",
            "cuda_graps =",
            "vllm.cuda_graps: unknown key; did you mean 'cuda_graphs'? allowed here: version, engine",
        ),
        ("summary =", "sumary =", "sumary: unknown key; did you mean 'summary'? allowed here: summary, python, cutoff"),
        ("[cutoff]", "[cutof]", "cutof: unknown key; did you mean 'cutoff'?"),
        ('engine = "V0"', 'engine = "V2"', "vllm.engine: Input should be 'V0' or 'V1'"),
        ('engine = "V0"\n', "", "vllm.engine: Field required"),
        ("date = 2025-04-03", 'date = "soon"', "cutoff.date: "),
        (
            'package = "antlr4',
            'pakage = "antlr4',
            "sdist.0.pakage: unknown key; did you mean 'package'? allowed here: package, reason",
        ),
        ("size = 255955166", "size = -1", "artefact.0.size: "),
        ("size = 255955166", "siz = 255955166", "artefact.0.siz: unknown key; did you mean 'size'?"),
        ('python = "3.10"', 'python = "3.9"', "artefact flash-attn is for Python 3.9, which `python` does not list"),
        ('python = ["3.10"', "python = [3.10", "python.0: Input should be a valid string"),
        ('sha256 = "c59b', 'sha256 = "C59B', "artefact.0.sha256: "),
        ("disk = 8_000_000_000", "disk = 0", "platform.disk: Input should be greater than 0"),
        ('VLLM_USE_V1 = "0"', "VLLM_USE_V1 = 0", "vllm.environment.VLLM_USE_V1: Input should be a valid string"),
    ],
)
def test_a_typo_is_named_with_file_key_and_what_is_allowed(clone, edit, old, new, said):
    edit(clone / "recipes/vllm073/recipe.toml", old, new)
    with pytest.raises(RecipeError) as caught:
        recipe.load("vllm073")
    assert "recipes/vllm073/recipe.toml" in caught.value.problem and said in caught.value.problem
    assert "schema.json" in caught.value.remedy


def test_a_typo_in_a_nested_optional_table(clone, edit):
    edit(clone / "recipes/v1/recipe.toml", 'filename = "vllm-0.7.3', 'filname = "vllm-0.7.3')
    with pytest.raises(RecipeError, match=r"source\.precompiled\.filname: unknown key; did you mean 'filename'\?"):
        recipe.load("v1")


def test_several_mistakes_are_all_named(clone, edit):
    path = clone / "recipes/vllm073/recipe.toml"
    edit(path, "summary =", "sumary =")
    edit(path, "compiler = false", 'compiler = "perhaps"')
    with pytest.raises(RecipeError) as caught:
        recipe.load("vllm073")
    assert all(word in caught.value.problem for word in ("sumary: ", "summary: Field required", "platform.compiler: "))


@pytest.mark.parametrize("content", [b"summary = \n", b"\xff\xfe", b"[vllm\n", b"a = 1\na = 2\n"])
def test_what_is_not_toml(clone, content):
    (clone / "recipes/vllm073/recipe.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipes/vllm073/recipe\.toml is not TOML"):
        recipe.load("vllm073")


def test_a_broken_recipe_does_not_break_the_others(clone):
    (clone / "recipes/vllm073/recipe.toml").write_text("nonsense")
    assert "vllm073" in recipe.names()
    assert recipe.load("vllm072").name == "vllm072"


@pytest.mark.parametrize(("asked", "near"), [("vllm73", "vllm073"), ("vlm072", "vllm072"), ("V1", "v1")])
def test_an_unknown_variant_gets_the_nearest_names(asked, near):
    with pytest.raises(UnknownVariant) as caught:
        recipe.load(asked)
    assert "did you mean" in caught.value.remedy and near in caught.value.remedy


@pytest.mark.parametrize("asked", ["zzz", "", "..", "../recipes/vllm073", "vllm073/"])
def test_names_that_are_like_none_or_are_paths(asked):
    with pytest.raises(UnknownVariant) as caught:
        recipe.load(asked)
    assert "vllm073" in caught.value.remedy


def test_a_python_without_a_lock():
    loaded = recipe.load("vllm073")
    assert loaded.chosen_python(None) == "3.10"
    with pytest.raises(UnknownVariant, match=r"no lock for Python 2\.7"):
        loaded.chosen_python("2.7")


def test_places_for_the_default_python_and_others(clone, tmp_path):
    loaded = recipe.load("vllm073")
    assert loaded.lock_dir() == loaded.lock_dir("3.10") == clone / "locks/vllm073"
    assert loaded.lock_dir("3.11") == clone / "locks/vllm073/py311"
    assert loaded.prefix() == tmp_path / "envs/vllm073"
    assert loaded.prefix("3.12") == tmp_path / "envs/vllm073-py312"
