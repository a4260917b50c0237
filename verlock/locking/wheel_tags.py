"""Which Python and glibc a wheel fits, told by the tags in its name."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

# What manylinux tags from before PEP 600 stand for: minor versions of glibc 2 (https://peps.python.org/pep-0600/).
_LEGACY = {"manylinux2014_x86_64": 17, "manylinux2010_x86_64": 12, "manylinux1_x86_64": 5, "linux_x86_64": 0}
_NEWEST = 60  # the highest minor version of glibc 2 that is looked for


def fits(filename: str, python: str, glibc: str) -> bool:
    """Whether this is a wheel for CPython `python` ("3.12") on x86-64 with glibc `glibc` ("2.31")."""
    tags = _of(filename)
    return not tags.isdisjoint(_supported(python, int(glibc.partition(".")[2])))


def oldest_glibc(filenames: Iterable[str], python: str) -> str | None:
    """The oldest glibc on which one of these files can be installed for CPython `python`; None where none can be."""
    wheels = [tags for name in filenames if (tags := _of(name))]
    for minor in range(_NEWEST + 1):
        supported = _supported(python, minor)
        if any(not tags.isdisjoint(supported) for tags in wheels):
            return f"2.{minor}"
    return None


def _of(filename: str) -> frozenset[Tag]:
    try:
        return parse_wheel_filename(filename)[3]
    except InvalidWheelFilename:  # an sdist
        return frozenset()


def _supported(python: str, glibc: int) -> frozenset[Tag]:
    """The tags of CPython `python` on x86-64 with glibc 2.`glibc`."""
    major, minor = (int(part) for part in python.split("."))
    platforms = [f"manylinux_2_{number}_x86_64" for number in range(glibc, 4, -1)]
    platforms += [name for name, needed in _LEGACY.items() if needed <= glibc]
    interpreter = f"cp{major}{minor}"
    return frozenset(
        [*cpython_tags((major, minor), platforms=platforms), *compatible_tags((major, minor), interpreter, platforms)]
    )
