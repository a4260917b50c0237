"""Before a damaged environment is made again: what of the damage is in uv's cache too, and in the environments beside it.

Files are hardlinks, so an edit in one environment may be an edit of the cache and of every environment that was made from it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from verlock import console
from verlock.env import installed, verify
from verlock.env.verify import Damage
from verlock.system import uv
from verlock.system.files import sha256_if_there
from verlock.variant import receipt, record
from verlock.variant.chosen import Chosen

# A file that is missing, or that nobody owns, says nothing about the cache.
_TELLING = frozenset({"package changed", "patch undone", "file changed"})


def prepare(chosen: Chosen, sealed: Mapping[str, Any], damage: Iterable[Damage]) -> None:
    """Drop the packages from uv's cache that are damaged there, and name the environments that share the damage.

    Args:
        chosen: the damaged environment.
        sealed: its receipt.
        damage: what is damaged.

    Raises what `uv.forget` raises.
    """
    changed = [item for item in damage if item.kind in _TELLING]
    for other in verify.sharing(chosen.prefix, changed):
        sealed_other = receipt.read(other)
        receipt.distrust(other)  # so that its own `create` looks closer, whatever size and time of the file say
        again = f"nox -s env-{sealed_other['variant']} -- --python {sealed_other['python']}"
        console.warn(f"the same file is damaged in {other}: `{again}` heals it")
    packages = {item.package.partition(",")[0] for item in changed}
    if spoilt := _spoilt(chosen, sealed, packages):
        console.warn(f"damaged in uv's cache too, and therefore fetched again: {', '.join(sorted(spoilt))}")
        uv.forget(spoilt)


def _spoilt(chosen: Chosen, sealed: Mapping[str, Any], packages: set[str]) -> set[str]:
    """Those of `packages` of which uv's cache holds other bytes than their wheel's own RECORD names."""
    names = {
        name: folder.name
        for name, (version, folder) in installed.packages(chosen.site).items()
        if name in packages and name in sealed["packages"] and version == sealed["packages"][name]["version"]
    }
    return {
        name
        for name, wheels in (uv.archives(names) if names else {}).items()
        if not all(_sound(wheel, names[name]) for wheel in wheels)
    }


def _sound(wheel: Path, dist_info: str) -> bool:
    """Has every file of an unpacked wheel the hash that its RECORD names? Two gigabytes take a second or two."""
    try:
        with (wheel / dist_info / record.NAME).open(encoding="utf-8", newline="") as file:
            return all(sha256_if_there(wheel / row.path) == row.sha256 for row in record.rows(file) if row.sha256)
    except (OSError, ValueError, csv.Error):
        return False
