"""Before any download: can this machine hold and run the variant? Everything here is asked in milliseconds."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from verlock import console
from verlock.errors import DiskTooSmall, DriverTooOld, PlatformMismatch
from verlock.system import uv
from verlock.variant.recipe import Recipe

_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_PATIENCE = 10  # seconds that nvidia-smi may take


def run(recipe: Recipe, python: str, prefix: Path) -> None:
    """Check platform, C library, disk and, where there is a GPU, its driver.

    Raises:
        PlatformMismatch, DiskTooSmall, DriverTooOld
    """
    system(recipe)
    disk(recipe, python, prefix)
    found = driver()
    if found:
        check_driver(recipe, found)


def system(recipe: Recipe) -> None:
    """Linux on x86-64 with a glibc no older than the recipe's. Raises PlatformMismatch."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise PlatformMismatch(
            f"{recipe.name} is locked for Linux on x86-64, this is {platform.system()} on {platform.machine()}",
            "use such a machine or container",
        )
    library, version = platform.libc_ver()
    if library != "glibc" or numbers(version) < numbers(recipe.platform.glibc):
        raise PlatformMismatch(
            f"{recipe.name} needs glibc {recipe.platform.glibc}, this system has {library or 'another C library'} {version}",
            "use a newer system or a container",
        )


def disk(recipe: Recipe, python: str, prefix: Path) -> None:
    """Enough free space for the environment and for uv's cache, which share their files on one file system.

    Where space is short, what is cached already is left out of the sum. Raises DiskTooSmall with both figures.
    """
    places = {"prefix": _existing(prefix), "cache": _existing(uv.cache())}
    shared = len({place.stat().st_dev for place in places.values()}) == 1
    short = [name for name in places if shutil.disk_usage(places[name]).free < recipe.platform.disk]
    if not short:
        return
    needed = dict.fromkeys(places, recipe.platform.disk)
    if uv.cached(recipe.lock_dir(python) / "requirements.txt", python, [sdist.package for sdist in recipe.sdist]):
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


def driver() -> str | None:
    """The NVIDIA driver's version, such as "580.159.04", or None where there is no GPU."""
    try:
        text = _KERNEL_DRIVER.read_text()
    except OSError:
        text = ""
    if match := re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", text):
        return match.group(1)
    if not shutil.which("nvidia-smi"):
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):  # it hangs where a GPU fell off the bus
        return None
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None


def check_driver(recipe: Recipe, version: str) -> None:
    """Is this driver new enough for the variant's CUDA? Raises DriverTooOld."""
    if numbers(version) < numbers(recipe.cuda.min_driver):
        raise DriverTooOld(
            f"the NVIDIA driver is {version}, {recipe.name} (CUDA {recipe.cuda.version}) needs {recipe.cuda.min_driver} or newer",
            "update the driver, or prepare the environment on a machine without a GPU for one that has a newer driver",
        )


def compiler(recipe: Recipe, prefix: Path) -> None:
    """Warn where the engine compiles at run time and neither the prefix nor the host has a C compiler.

    A warning only: an environment is often made on a login node for a compute node.
    """
    if recipe.vllm.compiles and not _compiler(prefix):
        console.warn(
            f"{recipe.name}'s engine compiles kernels at run time, and there is no C compiler (cc, gcc) here: "
            "install one, or use the conda base"
        )


def _compiler(prefix: Path) -> str | None:
    path = os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH", "")])
    return os.environ.get("CC") or shutil.which("gcc", path=path) or shutil.which("cc", path=path)


def numbers(version: str) -> tuple[int, ...]:
    """A dotted version as numbers, for comparison."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
