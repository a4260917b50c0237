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
from verlock.recipe import Recipe

_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")


def run(recipe: Recipe, prefix: Path) -> None:
    """Check platform, C library, disk and, where there is a GPU, its driver.

    Raises:
        PlatformMismatch, DiskTooSmall, DriverTooOld
    """
    system(recipe)
    disk(recipe, prefix)
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


def disk(recipe: Recipe, prefix: Path) -> None:
    """Enough free space for an environment none of whose packages is cached yet. Raises DiskTooSmall with both figures."""
    place = prefix
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < recipe.platform.disk:
        raise DiskTooSmall(
            f"{place} has {free / 1e9:.1f} GB free, {recipe.name} takes up to {recipe.platform.disk / 1e9:.1f} GB",
            "free some space, or name a larger place with VERLOCK_ENVS (and UV_CACHE_DIR, on the same file system)",
        )


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
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
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
    if recipe.platform.compiler and not _compiler(prefix):
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
