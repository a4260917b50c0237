"""What a command is about: one variant, for one Python, with its locks and its prefix. Settled once, given to every step."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import paths
from verlock.errors import LockError, RecipeError, UnknownVariant
from verlock.variant import digest, lockfiles, recipe_file
from verlock.variant.lockfiles import Pin

if TYPE_CHECKING:  # pydantic costs more than a whole run that finds nothing to do
    from verlock.system.uv import PipLayer
    from verlock.variant.recipe import Recipe


@dataclass(frozen=True)
class Chosen:
    """One variant for one Python. Everything else follows from the two, and from the recipe as it was read."""

    name: str
    python: str
    data: Mapping[str, Any] = field(repr=False, hash=False)  # the merged recipe, not validated

    @property
    def first_python(self) -> str:
        """The Python that is meant when none is named."""
        return str(self.data["python"][0])

    @property
    def suffix(self) -> str:
        """What tells the folders of this Python from those of the variant's first: nothing, or `py311`."""
        return "" if self.python == self.first_python else f"py{self.python.replace('.', '')}"

    @property
    def locks(self) -> Path:
        """`locks/<variant>`, or `locks/<variant>/py311` for a Python other than the variant's first."""
        return paths.LOCKS / self.name / self.suffix

    @property
    def prefix(self) -> Path:
        """`envs/<variant>`, or `envs/<variant>-py311`; where that is a link, to a larger disk say, where the link leads."""
        path = paths.envs_dir() / "-".join(filter(None, (self.name, self.suffix)))
        return path.resolve() if path.is_symlink() else path

    @property
    def interpreter(self) -> Path:
        """The Python of the prefix."""
        return self.prefix / "bin" / "python"

    @property
    def site(self) -> Path:
        """Where the packages of the prefix are."""
        return self.prefix / "lib" / f"python{self.python}" / "site-packages"

    def pip_layer(self, wheels: Mapping[str, tuple[Path, str]] | None = None) -> PipLayer:
        """The pip layer of this environment, with wheels from outside the index (package -> file, sha256)."""
        from verlock.system.uv import PipLayer

        sdists = tuple(each["package"] for each in self.data.get("sdist", []))
        locks = self.locks
        return PipLayer(locks / lockfiles.REQUIREMENTS, locks / lockfiles.BUILD_REQUIREMENTS, sdists, wheels or {})

    @cached_property
    def pins(self) -> list[Pin]:
        """The pip layer's pins. Raises LockError."""
        return lockfiles.pins(self.locks / lockfiles.REQUIREMENTS)

    @cached_property
    def sources(self) -> dict[str, Any]:
        """`sources.json`: what the patches do, and the wheel that is built from a source. Raises LockError."""
        locked = lockfiles.sources(self.locks)
        if self.data.get("source") and locked["wheel"] is None:
            path = self.locks / lockfiles.SOURCES
            raise LockError(f"{paths.shown(path)} names no wheel of the recipe's source", lockfiles.restore(path))
        return locked

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe, validated. Raises RecipeError."""
        from verlock.variant import recipe

        return recipe.validate(self.data, paths.RECIPES / self.name / recipe_file.NAME)

    def valid(self) -> Chosen:
        """Itself, where its recipe is valid. Raises RecipeError elsewhere."""
        _ = self.recipe  # no assert: `python -O` would leave it out
        return self

    @cached_property
    def digest(self) -> str:
        """The hex sha256 that names what this is (`verlock.variant.digest`).

        Raises LockError where there is no lock, RecipeError where the recipe is so wrong that it has none.
        """
        try:
            return digest.of_form(
                digest.form(self.data, self.python, self.locks, paths.RECIPES / self.name / "patches")
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            self.valid()  # says what is wrong
            raise

    def with_python(self, python: str | None) -> Chosen:
        """The same variant for another Python, of which it has a lock (its first one when None). Raises UnknownVariant."""
        python = python or self.first_python
        if python not in self.data["python"]:
            listed = ", ".join(map(str, self.data["python"]))
            raise UnknownVariant(f"{self.name} has no lock for Python {python}", f"it has {listed}")
        return Chosen(self.name, python, self.data)

    def pythons(self) -> list[Chosen]:
        """The variant for each of its Pythons, the first one first."""
        return [self.with_python(python) for python in self.data["python"]]


def names() -> list[str]:
    """The variants, in the order of their names; whether their recipes are valid is not asked."""
    return sorted(path.parent.name for path in paths.RECIPES.glob(f"*/{recipe_file.NAME}"))


def _is_python(value: Any) -> bool:
    """Whether this names a Python; folders are named after it."""
    return isinstance(value, str) and re.fullmatch(r"3\.[0-9]+", value) is not None


def choose(variant: str, python: str | None = None) -> Chosen:
    """A variant by its name, for one of its Pythons (its first one when None). Its recipe is read here, and nowhere else.

    Raises:
        UnknownVariant: there is no such variant, or it has no such Python; what there is is named.
        RecipeError: recipe.toml, or a file that it includes, is not TOML, or names no Python.
    """
    known = names()
    if variant not in known:
        near = difflib.get_close_matches(variant, known, n=3, cutoff=0.4)
        raise UnknownVariant(
            f"there is no variant {variant!r}",
            f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}",
        )
    path = paths.RECIPES / variant / recipe_file.NAME
    data = recipe_file.read(path)
    pythons = data.get("python")
    if not isinstance(pythons, list) or not pythons or not all(map(_is_python, pythons)):
        from verlock.variant import recipe

        recipe.validate(data, path)  # says what is wrong
        raise RecipeError(f"{paths.shown(path)} names no Python", 'write it as python = ["3.10"]')
    return Chosen(variant, pythons[0], data).with_python(python)
