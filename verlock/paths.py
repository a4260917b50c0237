"""Where things are: the clone, the environments, the caches. Nothing here touches the network or imports a dependency."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from verlock.errors import FileRefused

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
ENVIRONMENTS = ROOT / "environments"
LOCKS = ROOT / "locks"
CERTIFICATES = ROOT / "certificates"
RESULTS = ROOT / "results"


def envs_dir() -> Path:
    """The folder that holds the built environments: `VERLOCK_ENVS`, else `envs/` in the clone.

    Raises FileRefused: it is a file, or has a `:` in its path, which separates the folders of PATH.
    """
    path = os.path.abspath(os.environ.get("VERLOCK_ENVS") or ROOT / "envs")  # noqa: PTH100 (it takes `..` out, too)
    if os.pathsep in path:
        raise FileRefused(
            f"{path}: no environment works in a folder with {os.pathsep!r} in its path, since PATH cannot hold it",
            "name another folder in VERLOCK_ENVS",
        )
    return _folder(path, "VERLOCK_ENVS")


def cache_dir() -> Path:
    """The folder for downloads, git stores and built wheels: `VERLOCK_CACHE`, else the user's cache folder.

    Raises FileRefused: VERLOCK_CACHE names a file.
    """
    if given := os.environ.get("VERLOCK_CACHE"):
        return _folder(given, "VERLOCK_CACHE").absolute()
    from platformdirs import user_cache_path

    path = user_cache_path("verlock")
    # a user without HOME and without an entry in passwd, as in many containers, has no cache folder
    return path if path.is_absolute() else Path(tempfile.gettempdir()) / f"verlock-{os.getuid()}"


def bundle_dir() -> Path | None:
    """The bundle that files are taken from before any host is asked: `VERLOCK_BUNDLE`, which `create --from` sets; else None."""
    given = os.environ.get("VERLOCK_BUNDLE")
    return Path(given) if given else None


def offline() -> bool:
    """Whether no host may be asked for anything: `VERLOCK_OFFLINE` is 1, as `create --offline` sets it."""
    return os.environ.get("VERLOCK_OFFLINE") == "1"


def _folder(path: str, variable: str) -> Path:
    if os.path.isfile(path):  # noqa: PTH113 (it never fails)
        raise FileRefused(f"{path} is a file, and a folder belongs there", f"name a folder in {variable}")
    return Path(path)


def shown(path: Path) -> str:
    """A path as messages show it: within the clone, relative to it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
