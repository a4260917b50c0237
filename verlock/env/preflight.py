"""Before any download: can this machine hold and run the variant, and is all there that the locks ask for besides an index?"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import Version

from verlock import paths
from verlock.errors import DiskTooSmall, DriverTooOld, GpuUnsupported, NotSealed, PlatformMismatch
from verlock.system import gpu, uv
from verlock.system.files import own_bytes
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import Chosen
from verlock.variant.recipe import Recipe

if TYPE_CHECKING:
    from verlock.variant.checkouts import Checkout


def run(chosen: Chosen, editable: Mapping[str, Checkout]) -> Path | None:
    """Check platform, C library, the conda layer's lock, disk, where there is a GPU it and its driver, and then `sources`.

    Returns what `sources` returns. Raises PlatformMismatch, LockError, DiskTooSmall, DriverTooOld, GpuUnsupported, and what
    `sources` raises.
    """
    system(chosen.recipe)
    lockfiles.conda_packages(
        chosen.locks / lockfiles.CONDA_LOCK
    )  # also where the base is the host's: what is locked is whole
    disk(chosen)
    if found := gpu.driver():
        check_driver(chosen.recipe, found)
        check_gpus(chosen.recipe, gpu.names_and_capabilities() if chosen.recipe.torch.capabilities else [])
    return sources(chosen, editable)


def sources(chosen: Chosen, editable: Mapping[str, Checkout]) -> Path | None:
    """Check the patches against the lock, and have the git sources that the variant is built from, or that are to be edited.

    Args:
        chosen: which environment.
        editable: package -> commit, of what is asked for as a checkout.

    Returns:
        The wheel of the source, where cache or mirror has it already.

    Raises:
        LockError: sources.json is broken, or names no wheel for the source.
        StaleLock: source or patches changed after the lock was made.
        PatchRejected: a patch file is missing or broken.
        ToolMissing: there is no git.
        CheckoutRefused: something else lies where a checkout belongs. For a source also what `git_commit.store` raises.
    """
    recipe, locked = chosen.recipe, chosen.sources
    if not recipe.patch and recipe.source is None and not editable:
        return None
    from verlock.sources import editable as checkouts
    from verlock.sources import git_apply, git_commit, patches, source_wheel

    git_apply.git()
    patches.as_locked(recipe, locked)
    for package, checkout in editable.items():
        checkouts.ready(checkout, checkouts.place(chosen.prefix, package))
    if recipe.source is None:
        return None
    wheel = source_wheel.cached(recipe, locked["wheel"])
    if wheel is None:
        git_commit.store(recipe.source)
    return wheel


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

    Where space is short, what is cached already is left out of the sum. Raises DiskTooSmall with both figures, and with what
    could be deleted.
    """
    recipe = chosen.recipe
    places = {"prefix": existing(chosen.prefix), "cache": existing(uv.cache())}
    shared = len({place.stat().st_dev for place in places.values()}) == 1
    short = [name for name in places if shutil.disk_usage(places[name]).free < recipe.platform.disk]
    if not short:
        return
    needed = dict.fromkeys(places, recipe.platform.disk)
    if uv.cached(chosen.pip_layer(), chosen.python):
        needed["cache"] = 0
        if shared:
            needed["prefix"] //= 10  # folders, links, and what each environment has of its own
    elif shared and _made_from(chosen):
        # a damaged environment: what it shares with nothing is what it has lost in the cache, and what each has of its own
        needed = dict.fromkeys(places, min(recipe.platform.disk, own_bytes(chosen.prefix) + recipe.platform.disk // 10))
    for name in short:
        place = places[name]
        free = shutil.disk_usage(place).free
        if free < needed[name]:
            where = "name a larger place with VERLOCK_ENVS and UV_CACHE_DIR (best on one file system)"
            raise DiskTooSmall(
                f"{place} has {free / 1e9:.1f} GB free, {recipe.name} takes up to {needed[name] / 1e9:.1f} GB",
                f"free some space, or {where}{_deletable()}",
            )


def _made_from(chosen: Chosen) -> bool:
    """Was what stands at the prefix made from this very lock?"""
    try:
        return bool(receipt.read(chosen.prefix)["digest"] == chosen.digest)
    except NotSealed:
        return False


def _deletable() -> str:
    """The environments and uv's cache, with what deleting each would free; for a message."""
    folders = [path.parent.resolve() for path in paths.envs_dir().glob(f"*/{receipt.NAME}")] + [uv.cache()]
    sizes = sorted(((own_bytes(folder), str(folder)) for folder in folders), reverse=True)
    listed = ", ".join(f"{folder} {size / 1e9:.1f} GB" for size, folder in sizes if size >= 50e6)
    return f"\n  deleting frees: {listed}; and what they share, once all that share it are gone" if listed else ""


def existing(place: Path) -> Path:
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


def check_gpus(recipe: Recipe, gpus: Sequence[tuple[str, str]]) -> None:
    """Is there a GPU that the variant's torch has kernels for? A smaller one for the screen may be there besides.

    A kernel runs on GPUs of its own major version whose minor version is no lower than its own
    (https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#binary-compatibility).

    Args:
        recipe: of the variant.
        gpus: name and compute capability ("9.0") of each GPU here; where there is none, nothing is checked.

    Raises GpuUnsupported where no GPU fits, with the names of all.
    """
    kernels = [_capability(each) for each in recipe.torch.capabilities]
    found = [_capability(each) for _, each in gpus]
    if gpus and not any(major == has and minor <= low for major, minor in kernels for has, low in found):
        here = ", ".join(dict.fromkeys(f"{name} (compute capability {capability})" for name, capability in gpus))
        raise GpuUnsupported(
            f"the torch of {recipe.name} has no kernels for {here}; it has some for {', '.join(recipe.torch.capabilities)}",
            "choose a variant of this GPU's time, or prepare the environment on a machine without a GPU for another one",
        )


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
