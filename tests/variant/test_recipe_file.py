"""A recipe as plain data: files that are not TOML, and what an include may and may not do."""

from __future__ import annotations

import pytest

from verlock import paths
from verlock.errors import RecipeError
from verlock.variant import recipe_file


def read(variant):
    return recipe_file.read(paths.RECIPES / variant / recipe_file.NAME)


@pytest.mark.parametrize("content", [b"summary = \n", b"\xff\xfe", b"[vllm\n", b"a = 1\na = 2\n"])
def test_what_is_not_toml(clone, content):
    (clone / "recipes/vllm073/recipe.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=r"recipes/vllm073/recipe\.toml is not TOML"):
        read("vllm073")


def test_a_common_file_that_is_not_toml_is_named(clone):
    (clone / "recipes/common/verl.toml").write_text("nonsense")
    with pytest.raises(RecipeError, match=r"recipes/common/verl\.toml is not TOML"):
        read("vllm073")


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
        read("vllm073")
    assert read("v1")["python"]


def test_parts_of_a_list_follow_the_order_of_include(clone, edit):
    path = clone / "recipes/vllm073/recipe.toml"
    with path.open("a") as file:
        file.write('\n[[sdist]]\npackage = "last"\nreason = "r"\n')
    (clone / "recipes/common/first.toml").write_text('[[sdist]]\npackage = "first"\nreason = "r"\n')
    edit(path, '"linux"', '"first", "linux"')
    names = [each["package"] for each in read("vllm073")["sdist"]]
    assert names[0] == "first" and names[-1] == "last" and len(names) == 4
