"""`verlock create`: from a lock to a sealed environment, in seven steps.

preflight -> base -> wheels -> artefacts -> patches -> check -> seal. An environment is never repaired half-way: nothing to
do is a no-op, and in every other case it is made anew from the caches, which takes seconds since files are hardlinked.
Packages found damaged are first dropped from uv's cache, because an edit of a hardlinked file is an edit of the cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import console, paths
from verlock.env import python_choice
from verlock.errors import ArtefactMissing, CheckFailed, FileRefused, NetworkError, NotSealed, UnknownVariant
from verlock.variant import digest, receipt

if TYPE_CHECKING:  # pydantic and the rest cost more than a whole no-op run
    from verlock.variant.recipe import Recipe


@dataclass(frozen=True)
class Options:
    """What a user may choose; the lock decides everything else."""

    base: str = "auto"  # conda, host or auto
    strict: bool = False
    editable: bool = False
    python: str | None = None


def run(variant: str, options: Options) -> int:
    """Make the environment of `variant` if it is not there already. Returns 0; raises VerlockError."""
    start = time.monotonic()
    if "/" in variant or not (paths.RECIPES / variant / "recipe.toml").exists():
        from verlock.variant import recipe

        recipe.load(variant)  # names the nearest variants
        raise UnknownVariant(variant)
    default = digest.raw(variant)["python"][0]
    python = options.python or python_choice.to_make(variant, options.base)
    prefix = paths.prefix_dir(variant, python, default)
    current = digest.of(variant, python)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(prefix.parent, os.W_OK):
        sealed, verb = _of_others(prefix, current, options), "up to date"
    else:
        with _alone(prefix):
            present = _present(prefix, current, options)
            if present is not None and _untouched(prefix, present) and not _incomplete(variant, present, options):
                sealed, verb = present, "up to date"
            else:
                sealed, verb = _make(variant, python, prefix, current, options, present), "ready"
    _report(variant, prefix, sealed, verb, time.monotonic() - start)
    return 0


def _present(prefix: Path, current: str, options: Options) -> dict[str, Any] | None:
    """The receipt of `prefix` when it is what the lock and the options ask for; None when it must be made (anew)."""
    try:
        sealed = receipt.read(prefix)
    except NotSealed:
        return None
    same = sealed["digest"] == current and sealed["editable"] == options.editable
    return sealed if same and options.base in ("auto", sealed["base"]["kind"]) else None


def _untouched(prefix: Path, sealed: dict[str, Any]) -> bool:
    return receipt.fingerprint(prefix) == str(sealed["fingerprint"])


def _of_others(prefix: Path, current: str, options: Options) -> dict[str, Any]:
    """The receipt of an environment that this user may use but not write. Raises FileRefused when it must be made anew."""
    sealed = _present(prefix, current, options)
    if sealed is None or not _untouched(prefix, sealed) or (sealed["missing"] and options.strict):
        raise FileRefused(
            f"{prefix} must be made (anew), and {prefix.parent} is not writable",
            "name a folder of yours with VERLOCK_ENVS, or ask whoever made it",
        )
    return sealed


def _incomplete(variant: str, sealed: dict[str, Any], options: Options) -> bool:
    """Is an artefact missing that is asked for, or that can be fetched by now?"""
    if not sealed["missing"] or options.strict:
        return bool(sealed["missing"])
    from verlock.env import artefacts

    return any(
        artefacts.reachable(file["url"], file["sha256"])
        for package, file in digest.artefact_files(variant, sealed["python"])
        if package in sealed["missing"]
    )


def _make(
    variant: str, python: str, prefix: Path, current: str, options: Options, present: dict[str, Any] | None
) -> dict[str, Any]:
    """Make it, unless it proves to be whole. What can be refused is refused before an environment there is touched."""
    from verlock.env import import_check, preflight, python_base, verify
    from verlock.system import uv
    from verlock.variant import lockfiles, recipe

    loaded = recipe.load(variant)
    loaded.chosen_python(python)
    locks = loaded.lock_dir(python)
    pins = lockfiles.pins(locks / lockfiles.REQUIREMENTS)
    lockfiles.pins(locks / lockfiles.BUILD_REQUIREMENTS)
    if present is not None and not _untouched(prefix, present):
        present = _inspected(loaded, python, prefix, present)
    if present is not None and not present["missing"]:
        return present
    console.say(f"{variant}: {loaded.summary}\n  {prefix}, Python {python}, digest {current[:12]}")

    with console.step("preflight"):
        preflight.run(loaded, python, prefix)
    with console.step("artefacts") as step:
        local, hashes, missing = _artefacts(loaded, python, options, step)
        step.detail = (
            ", ".join([*(f"{name} verified" for name in local), *(f"{name} MISSING" for name in missing)]) or "none"
        )
    if present is not None and present["missing"].keys() <= missing.keys():
        return present
    with python_base.replacing(prefix):
        with console.step("base") as step:
            entry, owned = python_base.install(loaded, python, prefix, options.base)
            step.detail = f"{entry['kind']}: CPython {entry['version']}"
        preflight.compiler(loaded, prefix)
        interpreter = prefix / "bin" / "python"
        with console.step("wheels", f"{len(pins)} packages") as step:

            def tell(fetched: int) -> None:
                step.detail = f"{len(pins)} packages, {fetched} fetched"

            sdists = [sdist.package for sdist in loaded.sdist]

            def sync(again: Iterable[str] = ()) -> None:
                uv.sync(
                    interpreter,
                    locks / "requirements.txt",
                    local,
                    sdists=sdists,
                    build_requirements=locks / "build-requirements.txt",
                    hashes=hashes,
                    again=again,
                )

            with uv.counting(tell):
                if loaded.source is None:
                    sync()
                    built = None
                else:
                    built = _from_source(loaded, interpreter, locks, options, local, hashes, sync)
                if lost := verify.overruled(paths.site_packages(prefix, python)):
                    sync(lost)
        with console.step("patches") as step:
            patched = _patched(loaded, python, prefix, locks)
            step.detail = f"{len(patched)} applied" if patched else "none"
        with console.step("check") as step:
            step.detail = import_check.run(loaded, interpreter, current, receipt.Ran.of(entry, missing))
        with console.step("seal"):
            return _seal(loaded, python, prefix, current, entry, owned, hashes, missing, patched, built, options)


def _inspected(recipe: Recipe, python: str, prefix: Path, sealed: dict[str, Any]) -> dict[str, Any] | None:
    """Look closer at a sealed prefix whose fingerprint differs: whole after all (its receipt), or damaged (None).

    What is damaged is dropped from uv's cache before the environment is made anew.
    """
    from verlock.env import verify
    from verlock.system import uv

    with console.step("verify", "something changed since it was sealed"):
        damage = verify.inspect(recipe, python, prefix)
    if not damage:
        sealed["fingerprint"] = receipt.fingerprint(prefix)
        receipt.write(prefix, sealed)
        return sealed
    for item in damage[:10]:
        console.warn(f"healing {item}")
    if len(damage) > 10:
        console.warn(f"healing {len(damage) - 10} more")
    spoilt = {item.package.partition(",")[0] for item in damage if item.package} & set(sealed["packages"])
    if spoilt:
        uv.forget(spoilt)
    return None


def _artefacts(
    recipe: Recipe, python: str, options: Options, step: console.Step
) -> tuple[dict[str, Path], dict[str, str], dict[str, str]]:
    """Files and hashes of the artefacts for this Python, and for those that are missing the reason."""
    from verlock.env import artefacts

    local, hashes, missing = {}, {}, {}
    for artefact in recipe.artefact:
        file = artefact.file_for(recipe.torch, python)

        def tell(progress: str, package: str = artefact.package) -> None:
            step.detail = f"{package}, {progress}"

        try:
            if file is None:
                raise NetworkError(f"no wheel of it is known for torch {recipe.torch.version} and Python {python}")
            local[artefact.package] = artefacts.fetch(file, tell)
            hashes[artefact.package] = file.sha256
        except NetworkError as error:
            if options.strict or not artefact.optional:
                raise ArtefactMissing(error.problem, error.remedy) from None
            missing[artefact.package] = error.problem
    return local, hashes, missing


def _from_source(
    recipe: Recipe,
    interpreter: Path,
    locks: Path,
    options: Options,
    local: dict[str, Path],
    hashes: dict[str, str],
    sync: Any,
) -> dict[str, Any]:
    """Install the wheel built from the recipe's source along with the rest, building it first where it is not cached."""
    from verlock.sources import patches, source_wheel

    assert recipe.source is not None
    locked = patches.read_lock(locks)["wheel"]
    wheel = source_wheel.cached(recipe, locked)
    if wheel is None:
        sync()  # its setup.py needs torch, so everything else goes in first
        wheel = source_wheel.wheel(recipe, interpreter, locks / "build-requirements.txt", locked)
    local[recipe.source.package] = wheel
    hashes[recipe.source.package] = locked["sha256"]
    sync()
    entry = {
        "package": recipe.source.package,
        "commit": recipe.source.commit,
        "tree": recipe.source.tree,
        "wheel": locked,
    }
    if options.editable:
        entry["checkout"] = str(source_wheel.editable(recipe, interpreter, locks / "build-requirements.txt", locked))
    return entry


def _patched(recipe: Recipe, python: str, prefix: Path, locks: Path) -> list[dict[str, Any]]:
    """Patch the installed files; a source build has taken its patches in already, and its wheel's sha256 says so."""
    if not recipe.patch:
        return []
    from verlock.sources import patches

    locked = patches.read_lock(locks)
    if recipe.source is not None:
        return patches.receipt_entries(recipe, locked)
    return patches.apply(recipe, paths.site_packages(prefix, python), locked)


def _seal(
    recipe: Recipe,
    python: str,
    prefix: Path,
    current: str,
    base: dict[str, Any],
    owned: dict[str, str],
    hashes: dict[str, str],
    missing: dict[str, str],
    patched: list[dict[str, Any]],
    built: dict[str, Any] | None,
    options: Options,
) -> dict[str, Any]:
    from datetime import datetime, timezone

    from verlock import __version__
    from verlock.env import verify

    site = paths.site_packages(prefix, python)
    packages = {
        name: {"version": version, "record": verify.record_digest(folder)}
        for name, (version, folder) in sorted(verify.installed(site).items())
    }
    for name, sha256 in hashes.items():
        packages[name]["sha256"] = sha256
    sealed = {
        "schema": receipt.SCHEMA,
        "verlock": __version__,
        "variant": recipe.name,
        "python": python,
        "digest": current,
        "prefix": str(prefix),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "base": base,
        "conda": sorted(path.name.removesuffix(".json") for path in (prefix / "conda-meta").glob("*-*-*.json")),
        "packages": packages,
        "missing": missing,
        "patches": patched,
        "source": built,
        "editable": options.editable,
        "files": owned,
    }
    if problem := _size_mismatch(prefix, site, sealed):
        raise CheckFailed(problem, "run again: it will be made anew")
    sealed["fingerprint"] = receipt.fingerprint(prefix)
    receipt.write(prefix, sealed)
    return sealed


def _size_mismatch(prefix: Path, site: Path, sealed: dict[str, Any]) -> str | None:
    """Is every file there that a RECORD names? Hashes are `verify`'s work; a truncated install shows here."""
    from verlock.env import verify

    expected, found = verify.expectations(prefix, site, sealed)
    absent = [path for path in expected if not os.path.lexists(path)]
    if absent or found:
        return f"{len(absent) + len(found)} installed files are missing, such as {absent[0] if absent else found[0]}"
    return None


def _report(variant: str, prefix: Path, sealed: dict[str, Any], verb: str, seconds: float) -> None:
    base = sealed["base"]
    console.say(f"{variant} is {verb}: {prefix} (base: {base['kind']}, Python {base['version']}, {seconds:.1f} s)")
    for package, reason in sealed["missing"].items():
        console.warn(f"INCOMPLETE, {package} is missing: {reason}")
    if sealed["missing"]:
        console.say(
            "  put the file into a folder, name that folder in VERLOCK_ARTEFACTS and run again; or run again with a network"
        )
    if verb == "ready":
        how = f"conda activate {prefix}" if base["kind"] == "conda" else f"source {prefix}/bin/activate"
        console.say(f"  {how}")


@contextlib.contextmanager
def _alone(prefix: Path) -> Iterator[None]:
    """Hold the prefix's lock file; a second run on the same prefix says so and waits."""
    with prefix.with_name(f".{prefix.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"another run is working on {prefix}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some cluster file systems have no locks
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            console.warn(f"the file system of {prefix} has no locks: let no other run work there meanwhile")
        yield
