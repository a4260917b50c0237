"""Which Python and glibc a wheel fits, told by the tags in its name."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # by glibc 2.N: PEP 599, 571 and 513
_NEWEST = 60  # the highest minor version of glibc 2 that is looked for


@lru_cache(maxsize=256)
def supported(python: str, glibc: str) -> dict[Tag, int]:
    """The tags of the wheels that a CPython such as 3.10 takes on Linux x86-64 with this glibc (2.N); the lower number wins."""
    major, minor = (int(part) for part in python.split("."))
    platforms = []
    for number in range(int(glibc.split(".")[1]), 4, -1):
        platforms += [f"manylinux_2_{number}_x86_64", *([f"{_LEGACY[number]}_x86_64"] if number in _LEGACY else [])]
    platforms.append("linux_x86_64")
    listed = [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]
    return {tag: place for place, tag in reversed(list(enumerate(listed)))}


def fits(filename: str, python: str, glibc: str) -> bool:
    """Whether this is a wheel for CPython `python` ("3.12") on x86-64 with glibc `glibc` ("2.31")."""
    return not _of(filename).isdisjoint(supported(python, glibc))


def oldest_glibc(filenames: Iterable[str], python: str) -> str | None:
    """The oldest glibc on which one of these files can be installed for CPython `python`; None where none can be."""
    wheels = [tags for name in filenames if (tags := _of(name))]
    for minor in range(_NEWEST + 1):
        glibc = f"2.{minor}"
        if any(not tags.isdisjoint(supported(python, glibc)) for tags in wheels):
            return glibc
    return None


def _of(filename: str) -> frozenset[Tag]:
    try:
        return parse_wheel_filename(filename)[3]
    except InvalidWheelFilename:  # an sdist
        return frozenset()
