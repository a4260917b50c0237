"""Which Python of a variant is meant when none is named: its first, or the nearest that this machine has."""

from __future__ import annotations

from typing import Any

from verlock import console, paths
from verlock.variant import digest, receipt


def to_make(variant: str, base: str) -> str:
    """The Python to make an environment for.

    The variant's first, wherever it is there already or can be had; else, where the base would be the host's and the host
    lacks it, the nearest minor version that has both a lock and an interpreter here (the newer of two), said aloud.

    Args:
        variant: its name; the recipe need not be valid.
        base: "auto", "conda" or "host".
    """
    pythons: list[str] = digest.raw(variant)["python"]
    first = pythons[0]
    if len(pythons) == 1 or base == "conda" or _sealed(variant, first, first):
        return first
    from verlock.conda import client
    from verlock.system import host_python

    if host_python.find(first):
        return first
    if base == "auto":
        lock = paths.lock_dir(variant, first, first) / "conda-lock.yml"
        if lock.exists() and client.reachable(lock, client.mirrors_from_environment()):
            return first
    for python in sorted(pythons[1:], key=lambda other: _distance(first, other)):
        if found := host_python.find(python):
            console.warn(
                f"there is no CPython {first} here and no conda channel: Python {python} ({found.executable}) is taken instead"
            )
            return python
    return first


def built(variant: str, named: str | None) -> str:
    """The Python of the environment that is meant: `named`, else the first that has a finished environment, else the first."""
    pythons: list[str] = digest.raw(variant)["python"]
    if named is not None:
        return named
    return next((python for python in pythons if _sealed(variant, python, pythons[0])), pythons[0])


def _sealed(variant: str, python: str, first: str) -> bool:
    return (paths.prefix_dir(variant, python, first) / receipt.NAME).exists()


def _distance(one: str, other: str) -> tuple[int, Any]:
    """How many minor versions apart, the newer first among equals."""
    a, b = (int(version.partition(".")[2]) for version in (one, other))
    return abs(a - b), -b
