"""The commits of releases: which variant gets which, and what is said where none is known."""

from __future__ import annotations

import pytest

from verlock.errors import CheckoutUnknown, RecipeError
from verlock.variant import checkouts
from verlock.variant.chosen import choose, names


@pytest.mark.parametrize("name", names())
def test_each_variant_s_verl_has_a_commit_and_an_example_or_a_reason_why_not(name):
    chosen = choose(name)
    version = chosen.recipe.verl.version
    if version in {each.version for each in checkouts.read().unknown if each.package == "verl"}:
        with pytest.raises(CheckoutUnknown, match=version):
            checkouts.find(chosen, "verl")
    else:
        found = checkouts.find(chosen, "verl")
        assert found.version == version and found.example.startswith("examples/") and found.example.endswith(".sh")


def test_no_release_stands_twice_and_none_without_a_variant():
    known = [(each.package, each.version) for each in (*checkouts.read().checkout, *checkouts.read().unknown)]
    used = {("verl", choose(name).recipe.verl.version) for name in names()}
    used |= {("vllm", choose(name).recipe.vllm.version) for name in names()}
    assert len(set(known)) == len(known) and set(known) <= used


def test_a_variant_built_from_a_commit_has_that_one():
    chosen = choose("v1")
    found, source = checkouts.find(chosen, "vllm"), chosen.recipe.source
    assert (found.commit, found.tree, found.url) == (source.commit, source.tree, source.url)


def test_a_release_without_an_entry_is_an_error_that_names_those_there_are():
    with pytest.raises(CheckoutUnknown, match=r"vllm 0\.8\.3 is not known") as caught:
        checkouts.find(choose("vllm083"), "vllm")
    assert "0.7.3" in caught.value.remedy


@pytest.mark.parametrize("text", ["[[checkout]]\npackage = 'verl'\n", "[[chekout]]\n", "["])
def test_a_broken_file_is_named(clone, text):
    (clone / "recipes" / checkouts.NAME).write_text(text)
    with pytest.raises(RecipeError, match=r"recipes/checkouts\.toml"):
        checkouts.find(choose("vllm073"), "verl")
