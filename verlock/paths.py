"""Where things are: the clone, the environments, the caches. Nothing here touches the network or imports a dependency."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
ENVIRONMENTS = ROOT / "environments"
LOCKS = ROOT / "locks"
CERTIFICATES = ROOT / "certificates"


def envs_dir() -> Path:
    """The folder that holds the built environments: `VERLOCK_ENVS`, else `envs/` in the clone."""
    return Path(os.path.abspath(os.environ.get("VERLOCK_ENVS") or ROOT / "envs"))  # noqa: PTH100 (it takes `..` out, too)


def cache_dir() -> Path:
    """The folder for downloads, git stores and built wheels: `VERLOCK_CACHE`, else the user's cache folder."""
    if given := os.environ.get("VERLOCK_CACHE"):
        return Path(given).absolute()
    from platformdirs import user_cache_path

    path = user_cache_path("verlock")
    # a user without HOME and without an entry in passwd, as in many containers, has no cache folder
    return path if path.is_absolute() else Path(tempfile.gettempdir()) / f"verlock-{os.getuid()}"


def shown(path: Path) -> str:
    """A path as messages show it: within the clone, relative to it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
