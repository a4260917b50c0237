"""Recipes: the six that are there, what a typo gets, and the schema that editors read."""

from __future__ import annotations

import json
import re
import sys

import jsonschema
import pytest

from verlock import paths
from verlock.errors import RecipeError, UnknownVariant
from verlock.variant import lockfiles, recipe
from verlock.variant.chosen import choose, names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAMES = names()


def test_the_six_variants_are_there():
    assert {"vllm070", "vllm071", "vllm072", "vllm073", "v1", "vllm083"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_is_valid_for_the_model_and_for_the_schema(name):
    loaded = choose(name).recipe
    assert loaded.name == name and loaded.folder == paths.RECIPES / name
    validator = jsonschema.Draft202012Validator(
        json.loads(recipe.SCHEMA.read_text()), format_checker=jsonschema.FormatChecker()
    )
    for file in [loaded.folder / "recipe.toml", *(paths.RECIPES / "common").glob("*.toml")]:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        assert not list(validator.iter_errors(json.loads(json.dumps(data, default=str)))), file


def test_the_schema_refuses_what_the_model_refuses():
    schema = jsonschema.Draft202012Validator(recipe.schema())
    data = json.loads(
        json.dumps(tomllib.loads((paths.RECIPES / "vllm073/recipe.toml").read_text(encoding="utf-8")), default=str)
    )
    assert schema.is_valid(data)
    for key, value in (
        ("sumary", "x"),
        ("python", "3.10"),
        ("python", []),
        ("vllm", {"version": "1"}),
        ("include", "x"),
    ):
        assert not schema.is_valid({**data, key: value})


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
    for python in loaded.python:
        pins = {
            pin.name: pin.version for pin in lockfiles.pins(choose(loaded.name, python).locks / lockfiles.REQUIREMENTS)
        }
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


@pytest.mark.parametrize("content", [b"summary = \n", b"\xff\xfe", b"[vllm\n", b"a = 1\na = 2\n"])
def test_what_is_not_toml(clone, content):
    (clone / "recipes/vllm073/recipe.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipes/vllm073/recipe\.toml is not TOML"):
        choose("vllm073").recipe


def test_a_common_file_that_is_not_toml_is_named(clone):
    (clone / "recipes/common/verl.toml").write_text("nonsense")
    with pytest.raises(RecipeError, match=r"recipes/common/verl\.toml is not TOML"):
        choose("vllm073").recipe


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"linux"', '"linus"', r"includes 'linus', which is not there"),
        ('"linux"', '"../vllm070/recipe"', "which is not there"),
        ("include = [", 'include = "linux" # [', "include must be a list of names"),
        (
            "[vllm]",
            '[cuda]\nversion = "1.0"\n[vllm]',
            r"recipe\.toml has cuda, and so has recipes/common/cuda-12\.4\.toml",
        ),
    ],
)
def test_an_include_that_does_not_work_is_told(clone, edit, old, new, said):
    edit(clone / "recipes/vllm073/recipe.toml", old, new)
    with pytest.raises(RecipeError, match=said):
        choose("vllm073").recipe
    assert choose("v1").recipe.name == "v1"


def test_parts_of_a_list_follow_the_order_of_include(clone, edit):
    path = clone / "recipes/vllm073/recipe.toml"
    with path.open("a") as file:
        file.write('\n[[sdist]]\npackage = "last"\nreason = "r"\n')
    (clone / "recipes/common/first.toml").write_text('[[sdist]]\npackage = "first"\nreason = "r"\n')
    edit(path, '"linux"', '"first", "linux"')
    names = [each.package for each in choose("vllm073").recipe.sdist]
    assert names[0] == "first" and names[-1] == "last" and len(names) == 4


def test_a_broken_recipe_does_not_break_the_others(clone):
    (clone / "recipes/vllm073/recipe.toml").write_text("nonsense")
    assert "vllm073" in names()
    assert choose("vllm072").recipe.name == "vllm072"


@pytest.mark.parametrize(("asked", "near"), [("vllm73", "vllm073"), ("vlm072", "vllm072"), ("V1", "v1")])
def test_an_unknown_variant_gets_the_nearest_names(asked, near):
    with pytest.raises(UnknownVariant) as caught:
        choose(asked).recipe
    assert "did you mean" in caught.value.remedy and near in caught.value.remedy


@pytest.mark.parametrize("asked", ["zzz", "", "..", "../recipes/vllm073", "vllm073/"])
def test_names_that_are_like_none_or_are_paths(asked):
    with pytest.raises(UnknownVariant) as caught:
        choose(asked).recipe
    assert "vllm073" in caught.value.remedy


def test_a_python_without_a_lock():
    loaded = choose("vllm073").recipe
    assert loaded.chosen_python(None) == "3.10"
    with pytest.raises(UnknownVariant, match=r"no lock for Python 2\.7"):
        loaded.chosen_python("2.7")


def test_places_for_the_default_python_and_others(clone, tmp_path):
    loaded = choose("vllm073").recipe
    assert choose(loaded.name).locks == choose(loaded.name, "3.10").locks == clone / "locks/vllm073"
    assert choose(loaded.name, "3.11").locks == clone / "locks/vllm073/py311"
    assert choose(loaded.name).prefix == tmp_path / "envs/vllm073"
    assert choose(loaded.name, "3.12").prefix == tmp_path / "envs/vllm073-py312"
