"""Before any download: can this machine hold and run the variant? Everything here is asked in milliseconds."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from packaging.version import Version

from verlock import console
from verlock.errors import DiskTooSmall, DriverTooOld, PlatformMismatch
from verlock.system import gpu, uv
from verlock.variant.chosen import Chosen
from verlock.variant.recipe import Recipe


def run(chosen: Chosen) -> None:
    """Check platform, C library, disk and, where there is a GPU, its driver.

    Raises:
        PlatformMismatch, DiskTooSmall, DriverTooOld
    """
    system(chosen.recipe)
    disk(chosen)
    if found := gpu.driver():
        check_driver(chosen.recipe, found)


def system(recipe: Recipe) -> None:
    """Linux on x86-64 with a glibc no older than the recipe's. Raises PlatformMismatch."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise PlatformMismatch(
            f"{recipe.name} is locked for Linux on x86-64, this is {platform.system()} on {platform.machine()}",
            "use such a machine or container",
        )
    library, version = platform.libc_ver()
    if library != "glibc" or Version(version) < Version(recipe.platform.glibc):
        raise PlatformMismatch(
            f"{recipe.name} needs glibc {recipe.platform.glibc}, this system has {library or 'another C library'} {version}",
            "use a newer system or a container",
        )


def disk(chosen: Chosen) -> None:
    """Enough free space for the environment and for uv's cache, which share their files on one file system.

    Where space is short, what is cached already is left out of the sum. Raises DiskTooSmall with both figures.
    """
    recipe = chosen.recipe
    places = {"prefix": _existing(chosen.prefix), "cache": _existing(uv.cache())}
    shared = len({place.stat().st_dev for place in places.values()}) == 1
    short = [name for name in places if shutil.disk_usage(places[name]).free < recipe.platform.disk]
    if not short:
        return
    needed = dict.fromkeys(places, recipe.platform.disk)
    if uv.cached(chosen.pip_layer(), chosen.python):
        needed["cache"] = 0
        if shared:
            needed["prefix"] //= 10  # folders, links, and what each environment has of its own
    for name in short:
        place = places[name]
        free = shutil.disk_usage(place).free
        if free < needed[name]:
            raise DiskTooSmall(
                f"{place} has {free / 1e9:.1f} GB free, {recipe.name} takes up to {needed[name] / 1e9:.1f} GB",
                "free some space, or name a larger place with VERLOCK_ENVS and UV_CACHE_DIR (best on one file system)",
            )


def _existing(place: Path) -> Path:
    """The nearest folder above (or at) `place` that is there."""
    while not place.exists():
        place = place.parent
    return place


def check_driver(recipe: Recipe, version: str) -> None:
    """Is this driver new enough for the variant's CUDA? Raises DriverTooOld."""
    if Version(version) < Version(recipe.cuda.min_driver):
        raise DriverTooOld(
            f"the NVIDIA driver is {version}, {recipe.name} (CUDA {recipe.cuda.version}) needs {recipe.cuda.min_driver} or newer",
            "update the driver, or prepare the environment on a machine without a GPU for one that has a newer driver",
        )


def compiler(chosen: Chosen) -> None:
    """Warn where the engine compiles at run time and neither the prefix nor the host has a C compiler.

    A warning only: an environment is often made on a login node for a compute node.
    """
    if chosen.recipe.vllm.compiles and not _compiler(chosen.prefix):
        console.warn(
            f"{chosen.name}'s engine compiles kernels at run time, and there is no C compiler (cc, gcc) here: "
            "install one, or use the conda base"
        )


def _compiler(prefix: Path) -> str | None:
    path = os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH", "")])
    return os.environ.get("CC") or shutil.which("gcc", path=path) or shutil.which("cc", path=path)
