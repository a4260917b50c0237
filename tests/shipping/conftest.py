"""A small variant on an index that a test makes up, for whatever leaves verlock."""

from __future__ import annotations

import fakeindex
import pytest
import toy

from verlock.locking import locked_files, loopback_index
from verlock.variant import lockfiles
from verlock.variant.chosen import choose


class Small:
    """A variant `toy` for the Python of the tests: two wheels and an sdist on `index`, and a conda layer of Python alone."""

    def __init__(self, clone, index):
        self.index, self.locks = index, clone / "locks/toy"
        self.recipe = clone / "recipes/toy/recipe.toml"
        self.recipe.parent.mkdir()
        self.recipe.write_text(toy.RECIPE.format(minor=toy.MINOR) + '[[sdist]]\npackage = "gamma"\nreason = "test"\n')
        self.locks.mkdir()
        (self.locks / lockfiles.CONDA_LOCK).write_text(toy.CONDA_LOCK.format(minor=toy.MINOR))
        (self.locks / lockfiles.BUILD_REQUIREMENTS).write_text("")

    def lock(self, **hashes):
        """Pin version 1.0 of these packages, each with its sha256, and write files.json."""
        lines = [f"{name}==1.0 --hash=sha256:{sha256}\n" for name, sha256 in hashes.items()]
        (self.locks / lockfiles.REQUIREMENTS).write_text("".join(lines))
        with loopback_index.serve(self.index.url) as index:
            (self.locks / lockfiles.FILES).write_text(locked_files.text(self.chosen, self.locks, index))

    @property
    def chosen(self):
        return choose("toy")


@pytest.fixture
def small(clone, monkeypatch):
    with fakeindex.serve() as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        made = Small(clone, index)
        made.lock(
            alpha=index.release("alpha", "1.0", "2025-01-01", "beta"),
            beta=index.release("beta", "1.0", "2025-01-02"),
        )
        yield made
