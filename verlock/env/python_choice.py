"""Which Python of a variant is meant when none is named: its first, or the nearest that this machine has."""

from __future__ import annotations

from verlock import console
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import Chosen, choose


def to_make(variant: str, named: str | None, base: str) -> Chosen:
    """The environment to make.

    Its Python is the one that is named; else the variant's first, if that environment is there already or can be made; else,
    where the base would be the host's and the host does not have that Python, the nearest minor version that has both a lock
    and an interpreter here (the newer of two), said aloud.

    Args:
        variant: its name; the recipe need not be valid.
        named: a Python, or None.
        base: "auto", "conda" or "host".

    Raises:
        UnknownVariant, RecipeError: as `choose`.
    """
    first = choose(variant, named)
    others = first.pythons()[1:]
    if named or not others or base == "conda" or _sealed(first):
        return first
    from verlock.conda import client
    from verlock.system import host_python

    if host_python.find(first.python):
        return first
    lock = first.locks / lockfiles.CONDA_LOCK
    if base == "auto" and lock.exists() and client.reachable(lock, client.mirrors_from_environment()):
        return first
    for other in sorted(others, key=lambda each: _distance(first.python, each.python)):
        if found := host_python.find(other.python):
            console.warn(
                f"there is no CPython {first.python} here and no conda channel: "
                f"Python {other.python} ({found.executable}) is taken instead"
            )
            return other
    return first


def built(variant: str, named: str | None) -> Chosen:
    """The environment that is meant: for the Python named, else the first that is finished, else the variant's first.

    Raises:
        UnknownVariant, RecipeError: as `choose`.
    """
    first = choose(variant, named)
    return first if named else next((each for each in first.pythons() if _sealed(each)), first)


def to_prove(variant: str, named: str | None) -> Chosen:
    """The environment to prove: as `built`, where one is finished; else the one to make. Raises as `choose`."""
    there = built(variant, named)
    return there if _sealed(there) else to_make(variant, named, "auto")


def _sealed(chosen: Chosen) -> bool:
    return (chosen.prefix / receipt.NAME).exists()


def _distance(one: str, other: str) -> tuple[int, int]:
    """How many minor versions apart, the newer first among equals."""
    a, b = (int(version.partition(".")[2]) for version in (one, other))
    return abs(a - b), -b
