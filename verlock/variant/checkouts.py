"""Which git commit a release of verl or vLLM is: what `--editable` checks out. Read from `recipes/checkouts.toml`.

No digest covers that file: it adds nothing to an environment unless a checkout is asked for, and then the receipt names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from verlock import paths
from verlock.errors import CheckoutUnknown, RecipeError
from verlock.variant import lockfiles, recipe_file
from verlock.variant.recipe import Link, Sha1

if TYPE_CHECKING:
    from verlock.variant.chosen import Chosen

NAME = "checkouts.toml"
PACKAGES = ("verl", "vllm")  # those that `--editable` takes


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Checkout(_Model):
    """The commit of one release."""

    package: str
    version: str
    url: Link
    commit: Sha1
    tree: Sha1
    example: str = Field(default="", description="a script at that commit to begin with")
    differs: list[str] = Field(default=[], description="files that the released wheel has with other bytes")


class Unknown(_Model):
    """A release whose commit is not known, and why."""

    package: str
    version: str
    reason: str


class File(_Model):
    """The whole of checkouts.toml."""

    checkout: list[Checkout] = []
    unknown: list[Unknown] = []


def read() -> File:
    """All of recipes/checkouts.toml. Raises RecipeError."""
    path = paths.RECIPES / NAME
    try:
        return File.model_validate(recipe_file.toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(f"{paths.shown(path)}: {where}: {first['msg']}", lockfiles.restore(path)) from None


def find(chosen: Chosen, package: str) -> Checkout:
    """The commit of a variant's verl or vLLM: of the recipe's own source, else of checkouts.toml.

    Raises:
        CheckoutUnknown: no commit is known for that release; says why, where that is known.
        RecipeError: the file is broken.
    """
    recipe = chosen.recipe
    if recipe.source is not None and recipe.source.package == package:
        source = recipe.source
        return Checkout(package=package, version=source.version, url=source.url, commit=source.commit, tree=source.tree)
    version = {"verl": recipe.verl.version, "vllm": recipe.vllm.version}[package]
    known = read()
    for each in known.checkout:
        if (each.package, each.version) == (package, version):
            return each
    why = [f"\n  {each.reason}" for each in known.unknown if (each.package, each.version) == (package, version)]
    listed = ", ".join(each.version for each in known.checkout if each.package == package)
    raise CheckoutUnknown(
        f"{chosen.name}: the commit of {package} {version} is not known, so there is nothing to check out{''.join(why)}",
        f"recipes/{NAME} has {package} {listed}; add its URL, commit and tree there, or install without `--editable`",
    )
