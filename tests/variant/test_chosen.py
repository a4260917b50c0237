"""One variant for one Python: its name, its places, its recipe read once, and nothing that could change on the way."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from verlock import paths
from verlock.errors import LockError, RecipeError, UnknownVariant
from verlock.system.uv import PipLayer
from verlock.variant import chosen, recipe_file
from verlock.variant.chosen import Chosen, choose

ROOT = paths.ROOT  # `clone` puts another in its place


@pytest.fixture
def recipe(clone):
    """The recipe of vllm073, in a clone of the test's own."""
    return clone / "recipes/vllm073/recipe.toml"


def test_the_names_are_the_folders_with_a_recipe(clone):
    before = chosen.names()
    assert "vllm073" in before and "common" not in before
    (clone / "recipes/empty").mkdir()
    (clone / "recipes/a-new-one").mkdir()
    (clone / "recipes/a-new-one/recipe.toml").write_text("not = read")
    assert chosen.names() == ["a-new-one", *before]


@pytest.mark.parametrize(("wrong", "near"), [("vllm73", "vllm073"), ("vllm0.7.2", "vllm072"), ("v2", "v1")])
def test_the_nearest_names_are_named(wrong, near):
    with pytest.raises(UnknownVariant) as caught:
        choose(wrong)
    assert caught.value.problem == f"there is no variant {wrong!r}"
    assert caught.value.remedy.startswith("did you mean ") and near in caught.value.remedy


def test_all_are_named_where_none_is_near():
    with pytest.raises(UnknownVariant) as caught:
        choose("sglang")
    assert caught.value.remedy == "there are: " + ", ".join(chosen.names())


@pytest.mark.parametrize("name", ["", ".", "..", "common", "vllm073/", "../recipes/vllm073", "VLLM073", "vllm073 "])
def test_what_is_no_name(name):
    with pytest.raises(UnknownVariant):
        choose(name)


def test_the_first_python_has_the_plain_places(clone, tmp_path):
    one = choose("vllm073")
    assert (one.python, one.first_python, one.suffix) == ("3.10", "3.10", "")
    assert one == choose("vllm073", "3.10")
    assert one.locks == clone / "locks/vllm073"
    assert one.prefix == tmp_path / "envs/vllm073"
    assert one.interpreter == tmp_path / "envs/vllm073/bin/python"
    assert one.site == tmp_path / "envs/vllm073/lib/python3.10/site-packages"


def test_another_python_has_places_of_its_own(clone, tmp_path):
    one = choose("vllm073", "3.12")
    assert (one.python, one.first_python, one.suffix) == ("3.12", "3.10", "py312")
    assert one.locks == clone / "locks/vllm073/py312"
    assert one.prefix == tmp_path / "envs/vllm073-py312"
    assert one.interpreter == tmp_path / "envs/vllm073-py312/bin/python"
    assert one.site == tmp_path / "envs/vllm073-py312/lib/python3.12/site-packages"


@pytest.mark.parametrize("name", chosen.names())
def test_every_lock_of_the_clone_is_where_it_is_looked_for(name):
    for one in choose(name).pythons():
        assert (one.locks / "requirements.txt").exists() and len(one.digest) == 64


@pytest.mark.parametrize(("python", "name"), [(None, "vllm073"), ("3.12", "vllm073-py312")])
def test_a_linked_prefix_is_where_the_link_leads(clone, tmp_path, python, name):
    big = tmp_path / "big disk"
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / name).symlink_to("../big disk")
    assert choose("vllm073", python).prefix == big, "also before there is anything"
    big.mkdir()
    assert choose("vllm073", python).prefix == big
    assert choose("vllm073", python).interpreter == big / "bin/python"


def test_a_link_above_the_prefix_is_left_as_it_is(clone, tmp_path, monkeypatch):
    """The user's spelling of the folder is what the scripts of an environment have in them."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "link"))
    assert choose("vllm073").prefix == tmp_path / "link/vllm073"


def test_with_another_python_and_back():
    first = choose("vllm073")
    other = first.with_python("3.12")
    assert (first.python, other.python, other.name) == ("3.10", "3.12", "vllm073")
    assert other.with_python(None) == first and other.with_python("") == first
    assert [each.python for each in other.pythons()] == ["3.10", "3.11", "3.12"]
    assert first.digest != other.digest


@pytest.mark.parametrize("python", ["3.9", "3", "3.10.1", "py312", "3.1"])
def test_a_python_without_a_lock_is_refused_and_the_others_are_named(python):
    for ask in (lambda: choose("vllm073", python), lambda: choose("vllm073").with_python(python)):
        with pytest.raises(UnknownVariant) as caught:
            ask()
        assert caught.value.problem == f"vllm073 has no lock for Python {python}"
        assert caught.value.remedy == "it has 3.10, 3.11, 3.12"


def test_the_recipe_is_read_once_for_all_that_follows(recipe, monkeypatch):
    read = []
    real = recipe_file.toml
    monkeypatch.setattr(recipe_file, "toml", lambda path: read.append(path) or real(path))
    one = choose("vllm073")
    assert read.count(recipe) == 1 and len(read) == len(set(read)), "a file was read twice"
    before = len(read)
    recipe.write_text("no longer a recipe")  # what was chosen stays as it was
    for each in [one, *one.pythons(), one.with_python("3.12")]:
        assert each.recipe.vllm.version == "0.7.3"
        assert each.valid() is each and each.digest and each.prefix and each.pip_layer()
    assert len(read) == before


def test_recipe_and_digest_are_worked_out_once(clone, edit):
    one = choose("vllm073")
    assert one.recipe is one.recipe
    before = one.digest
    edit(one.locks / "build-requirements.txt", "", f"evil==1 --hash=sha256:{'a' * 64}\n")
    assert one.digest == before, "a run goes by one lock from its beginning to its end"
    assert choose("vllm073").digest != before


def test_no_field_can_be_changed():
    one = choose("vllm073")
    for name in ("name", "python", "data", "prefix", "digest"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(one, name, "other")
    assert {one, choose("vllm073"), choose("vllm073", "3.12")} == {one, one.with_python("3.12")}
    assert one != choose("vllm072") and "torch" not in repr(one)


def test_the_pip_layer(clone, tmp_path):
    one = choose("vllm073", "3.12")
    locks = clone / "locks/vllm073/py312"
    sdists = tuple(each["package"] for each in one.data["sdist"])
    assert sdists == tuple(each.package for each in one.recipe.sdist) and sdists
    assert one.pip_layer() == PipLayer(locks / "requirements.txt", locks / "build-requirements.txt", sdists)
    wheels = {"flash-attn": (tmp_path / "x.whl", "a" * 64)}
    assert one.pip_layer(wheels).wheels == wheels


def test_a_recipe_that_is_not_valid_can_be_chosen_and_says_so_when_it_is_asked(recipe, edit):
    before = choose("vllm073").digest
    edit(recipe, "summary =", "sumary =")
    one = choose("vllm073")
    assert one.prefix.name == "vllm073" and one.digest == before
    for ask in (lambda: one.recipe, one.valid):
        with pytest.raises(RecipeError, match=r"recipes/vllm073/recipe\.toml") as caught:
            ask()
        assert "sumary" in caught.value.problem


def test_a_recipe_is_validated_under_python_o_too(recipe, edit):
    edit(recipe, "summary =", "sumary =")
    code = (
        "import pathlib\nfrom verlock import paths\nfrom verlock.errors import RecipeError\n"
        f"paths.RECIPES = pathlib.Path({str(recipe.parent.parent)!r})\n"
        "from verlock.variant.chosen import choose\n"
        "try:\n    choose('vllm073').valid()\nexcept RecipeError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


@pytest.mark.parametrize(
    "line", ["", "python = []", 'python = "3.10"', "python = [3.10]", 'python = ["3.10", 3]', "python = [", "\x00"]
)
def test_a_recipe_that_names_no_python_is_refused_at_once(recipe, line):
    text = recipe.read_text()
    (old,) = [each for each in text.splitlines() if each.startswith("python = ")]
    recipe.write_text(text.replace(old, line))
    with pytest.raises(RecipeError, match=r"recipes/vllm073/recipe\.toml"):
        choose("vllm073")


def test_a_recipe_that_includes_what_is_not_there_is_refused_at_once(recipe, edit):
    edit(recipe, "include = [", 'include = ["nowhere", ')
    with pytest.raises(RecipeError, match="nowhere"):
        choose("vllm073")


def test_a_lock_that_is_missing_is_named(clone):
    one = choose("vllm073", "3.12")
    (one.locks / "requirements.txt").unlink()
    with pytest.raises(LockError, match=r"locks/vllm073/py312/requirements\.txt is missing"):
        one.digest


def test_what_is_chosen_is_one_of_the_pythons():
    assert isinstance(choose("v1"), Chosen) and choose("v1") in choose("v1").pythons()
