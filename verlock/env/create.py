"""`verlock create`: from a lock to a sealed environment, in the steps of `STEPS`.

An environment is never repaired half-way: nothing to do is a no-op, and in every other case it is made new from the caches, which
takes seconds since files are hardlinked. Packages that are damaged in uv's cache too are first dropped from it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import console, paths
from verlock.env import prefix_folder, python_choice
from verlock.errors import (
    ArtefactMissing,
    CheckFailed,
    FileRefused,
    InstallError,
    IntegrityError,
    NetworkError,
    NotSealed,
)
from verlock.system.files import alone, clear_drafts
from verlock.variant import digest, receipt
from verlock.variant.chosen import Chosen

if TYPE_CHECKING:
    from verlock.env.hashing import Hashed
    from verlock.env.installed import Recorded
    from verlock.env.verify import Damage
    from verlock.variant.checkouts import Checkout

SiteWheels = Mapping[str, Mapping[str, str]]  # artefact -> the receipt's entry: file, version, sha256


@dataclass(frozen=True)
class Options:
    """What a user may choose; the lock decides everything else."""

    base: str = "auto"  # conda, host or auto
    strict: bool = False
    editable: tuple[str, ...] | None = None  # packages to install from checkouts; None: those that are so already
    site_wheels: Mapping[str, Path] | None = None  # package -> wheel of the user's own; None: those that are there


def _hashed() -> Hashed:
    from verlock.env import hashing  # not for a run that finds nothing to do

    return hashing.Hashed()


@dataclass
class Making:
    """An environment while it is made: what each step leaves for the later ones, and for the receipt."""

    chosen: Chosen
    options: Options
    base: dict[str, Any] = field(default_factory=dict)  # kind, version, from
    owned: dict[str, str] = field(default_factory=dict)  # files of the base that no package owns
    wheels: dict[str, tuple[Path, str]] = field(default_factory=dict)  # from outside the index: file, sha256
    missing: dict[str, str] = field(default_factory=dict)  # artefact -> why
    site_wheels: SiteWheels = field(default_factory=dict)
    editable: Mapping[str, Checkout] = field(default_factory=dict)  # package -> the commit of its checkout
    built: Path | None = None  # the wheel of the recipe's source, where cache or mirror has it
    source: dict[str, Any] | None = None  # what was built from a git commit
    listed: dict[str, Recorded] = field(default_factory=dict)  # the RECORDs of what is installed
    folders: dict[str, str] = field(default_factory=dict)  # empty ones that wheels brought -> package
    hashed: Hashed = field(default_factory=_hashed)  # what was read of its files, since uv began to bring them
    patches: list[dict[str, Any]] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)


def run(variant: str, options: Options, python: str | None = None) -> int:
    """Make the environment of `variant` if it is not there already. Returns 0; raises VerlockError."""
    make(python_choice.to_make(variant, python, options.base), options)
    return 0


def make(chosen: Chosen, options: Options) -> None:
    """Make one environment if it is not there already, and say where it is. Raises VerlockError."""
    start = time.monotonic()
    prefix = chosen.prefix
    own: SiteWheels | None = {} if options.site_wheels is not None else None
    if options.site_wheels:
        from verlock.env import site_wheels

        own = site_wheels.keep(chosen, options.site_wheels)
    if options.editable:
        _checkouts(chosen, options.editable)  # what is not known is refused, also where there is nothing to do
    prefix.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(prefix.parent, os.W_OK):
        sealed, verb = _of_others(chosen, options, own), "up to date"
    else:
        with alone(prefix.with_name(f".{prefix.name}.lock"), str(prefix)):
            prefix_folder.settle(prefix)
            present = _present(chosen, options, own)
            if present is not None and _untouched(prefix, present) and not _incomplete(chosen, present, options):
                sealed, verb = present, "up to date"
            else:
                sealed, verb = _make(chosen, options, own, present), "ready"
    _report(chosen, sealed, verb, time.monotonic() - start)


# what is there already --------------------------------------------------------------------------------


def _present(chosen: Chosen, options: Options, own: SiteWheels | None) -> dict[str, Any] | None:
    """The receipt of the prefix when it is what the lock and the options ask for; None when it must be made."""
    try:
        sealed = receipt.read(chosen.prefix)
    except NotSealed:
        return None
    same = sealed["digest"] == chosen.digest
    if options.editable is not None:
        same = same and sealed["editable"].keys() == set(options.editable)
    if own is not None:
        same = same and _sha256(own) == _sha256(sealed["site_wheels"])
    return sealed if same and options.base in ("auto", sealed["base"]["kind"]) else None


def _sha256(site_wheels: SiteWheels) -> dict[str, str]:
    return {package: entry["sha256"] for package, entry in site_wheels.items()}


def _untouched(prefix: Path, sealed: dict[str, Any]) -> bool:
    starts = (prefix / "bin/python").exists()  # a link to the host's, which may be gone by now, is the same link still
    there = all(os.path.isdir(each["checkout"]) for each in sealed["editable"].values())  # noqa: PTH112
    return starts and there and receipt.fingerprint(prefix) == str(sealed["fingerprint"])


def _of_others(chosen: Chosen, options: Options, own: SiteWheels | None) -> dict[str, Any]:
    """The receipt of an environment that this user may use but not write. Raises FileRefused when it must be rebuilt."""
    prefix = chosen.prefix
    sealed = _present(chosen, options, own)
    if sealed is None or not _untouched(prefix, sealed) or (sealed["missing"] and options.strict):
        raise FileRefused(
            f"{prefix} must be made or rebuilt, and {prefix.parent} is not writable",
            "name a folder of yours with VERLOCK_ENVS, or ask whoever made it",
        )
    return sealed


def _incomplete(chosen: Chosen, sealed: dict[str, Any], options: Options) -> bool:
    """Is an artefact missing that is asked for, or that can be fetched by now?"""
    if not sealed["missing"] or options.strict:
        return bool(sealed["missing"])
    from verlock.env import artefacts

    return any(
        artefacts.reachable(file["url"], file["sha256"])
        for package, file in digest.artefact_files(chosen.data, chosen.python)
        if package in sealed["missing"]
    )


def _inspected(chosen: Chosen, sealed: dict[str, Any]) -> dict[str, Any] | None:
    """Look closer at a sealed prefix whose fingerprint differs: whole after all (its receipt), or damaged (None).

    What is damaged in uv's cache too is dropped from it before the environment is rebuilt.
    """
    from verlock.env import healing, verify

    with console.step("verify", "something changed since it was sealed"):
        damage = verify.inspect(chosen)
    if not damage:
        sealed["fingerprint"] = receipt.fingerprint(chosen.prefix)
        receipt.write(chosen.prefix, sealed)
        return sealed
    _say_healing(damage)
    healing.prepare(chosen, sealed, damage)
    return None


def _say_healing(damage: list[Damage]) -> None:
    for item in damage[:10]:
        console.warn(f"healing {item}")
    if len(damage) > 10:
        console.warn(f"healing {len(damage) - 10} more")


# making it --------------------------------------------------------------------------------------------


def _make(chosen: Chosen, options: Options, own: SiteWheels | None, present: dict[str, Any] | None) -> dict[str, Any]:
    """Make it, unless it proves to be whole. What can be refused is refused before an environment there is touched."""
    from verlock.env import site_wheels

    making = Making(chosen, options, site_wheels=present["site_wheels"] if present else {})
    summary = chosen.recipe.summary
    if present is not None and not _untouched(chosen.prefix, present):
        present = _inspected(chosen, present)
    if present is not None:
        missing = present["missing"].keys()
        if not missing or not missing - fetched(making).missing.keys():
            return present  # whole, and as complete as it can be now
    making.site_wheels = site_wheels.remembered(chosen) if own is None else own
    editable = receipt.editable(receipt.raw(chosen.prefix)) if options.editable is None else options.editable
    making.editable = _checkouts(chosen, editable)
    console.say(f"{chosen.name}: {summary}\n  {chosen.prefix}, Python {chosen.python}, digest {chosen.digest[:12]}")
    first, *rest = STEPS
    _take(making, first)
    with prefix_folder.replacing(chosen.prefix), making.hashed:
        for name in rest:
            _take(making, name)
    return making.receipt


def _checkouts(chosen: Chosen, packages: Collection[str]) -> dict[str, Checkout]:
    """The commit of each package that is to be editable. Raises CheckoutUnknown."""
    if not packages:
        return {}
    from verlock.variant import checkouts

    return {package: checkouts.find(chosen, package) for package in sorted(packages)}


def _take(making: Making, name: str) -> None:
    with console.step(name) as step:
        STEPS[name](making, step)


def _preflight(making: Making, step: console.Step) -> None:
    from verlock.env import preflight

    for folder in ("artefacts", "wheels", "sources"):
        clear_drafts(paths.cache_dir() / folder)
    making.built = preflight.run(making.chosen, making.editable)


def _base(making: Making, step: console.Step) -> None:
    from verlock.env import python_base

    making.base, making.owned = python_base.install(making.chosen, making.options.base)
    step.detail = f"{making.base['kind']}: CPython {making.base['version']}"


def _artefacts(making: Making, step: console.Step) -> None:
    fetched(making, lambda text: setattr(step, "detail", text))
    found = [f"{name} {'site wheel' if name in making.site_wheels else 'verified'}" for name in making.wheels]
    step.detail = ", ".join([*found, *(f"{name} MISSING" for name in making.missing)]) or "none"


def fetched(making: Making, tell: Callable[[str], None] = lambda text: None) -> Making:
    """Note file and sha256 of each artefact: the site wheel's, else what can be fetched or is cached; or why there is none."""
    from verlock.env import artefacts
    from verlock.sources import wheel_store

    chosen = making.chosen
    making.wheels, making.missing = {}, {}
    for artefact in chosen.recipe.artefact:
        if own := making.site_wheels.get(artefact.package):
            making.wheels[artefact.package] = wheel_store.place(own["file"], own["sha256"]), own["sha256"]
            continue
        file = artefact.file_for(chosen.recipe.torch, chosen.python)
        try:
            if file is None:
                raise NetworkError(
                    f"no wheel of it is known for torch {chosen.recipe.torch.version} and Python {chosen.python}"
                )
            making.wheels[artefact.package] = artefacts.fetch(file, tell), file.sha256
        except NetworkError as error:
            if making.options.strict or not artefact.optional:
                raise ArtefactMissing(error.problem, error.remedy) from None
            making.missing[artefact.package] = error.problem
    return making


def _wheels(making: Making, step: console.Step, again: Collection[str] = ()) -> None:
    from verlock.env import installed
    from verlock.system import package_index, uv

    chosen, store = making.chosen, uv.store()
    making.hashed.watch(store)
    count = len(chosen.pins)
    places = [str(bundle)] if (bundle := paths.bundle_dir()) else []
    places += [] if places and paths.offline() else [str(package_index.chosen())]
    step.announce(f"{count} packages")

    def tell(fetched: int) -> None:
        step.detail = f"{count} packages, {fetched} fetched from {' or '.join(places)}"

    with uv.counting(store, tell):
        if chosen.recipe.source is not None:
            _source(making)
        layer = chosen.pip_layer(making.wheels)
        uv.sync(chosen.interpreter, layer, again=again)
        making.hashed.hurry()
        making.listed = _listed(chosen)
        if lost := installed.overruled(chosen.site, making.listed):
            uv.sync(chosen.interpreter, layer, again=lost)
            making.listed.update(_listed(chosen, lost))
    walked = receipt.walk(chosen.site)
    for folder, package in installed.folders_of_wheels(chosen.site, walked, making.listed).items():
        making.folders[str(Path(folder).relative_to(chosen.prefix))] = package


def _listed(chosen: Chosen, only: Collection[str] | None = None) -> dict[str, Recorded]:
    """The RECORDs of what is installed, or of some of it; they do not tell whether it came out of a bundle."""
    from verlock.env import installed

    if paths.bundle_dir():
        from verlock.env import bundled

        bundled.as_from_an_index(chosen.site)
    return installed.recorded(chosen.site, only)


def _source(making: Making) -> None:
    """Have the wheel that is built from the recipe's source, built here where neither cache nor mirror has it."""
    from verlock.sources import source_wheel
    from verlock.system import uv

    chosen, source = making.chosen, making.chosen.recipe.source
    assert source is not None
    locked = chosen.sources["wheel"]
    layer = chosen.pip_layer(making.wheels)
    wheel = making.built
    if wheel is None:
        uv.sync(chosen.interpreter, layer)  # its setup.py needs torch, so everything else goes in first
        wheel = source_wheel.wheel(chosen.recipe, chosen.interpreter, layer.build_requirements, locked)
    making.wheels[source.package] = wheel, locked["sha256"]
    making.source = {"package": source.package, "commit": source.commit, "tree": source.tree, "wheel": locked}


def _patches(making: Making, step: console.Step) -> None:
    """Patch the installed files; a source build has taken its patches in already, and its wheel's sha256 says so.

    Then what is to be editable gives way to its checkout, which has patches of its own.
    """
    from verlock.sources import patches

    chosen = making.chosen
    if chosen.recipe.patch:
        locked = chosen.sources
        built = chosen.recipe.source is not None
        making.patches = (
            patches.receipt_entries(chosen.recipe, locked)
            if built
            else patches.apply(chosen.recipe, chosen.site, locked)
        )
    step.detail = f"{len(making.patches)} applied" if making.patches else "none"
    if making.editable:
        step.detail += f"; editable: {', '.join(making.editable)}"
        _make_editable(making)


def _make_editable(making: Making) -> None:
    from verlock.env import installed
    from verlock.sources import editable

    chosen = making.chosen
    for package, checkout in making.editable.items():
        editable.install(chosen.recipe, chosen.site, checkout, editable.place(chosen.prefix, package))
    making.patches = [each for each in making.patches if each["package"] not in making.editable]
    making.folders = {each: name for each, name in making.folders.items() if (chosen.prefix / each).is_dir()}
    making.listed = installed.recorded(chosen.site)


def _check(making: Making, step: console.Step) -> None:
    """Hash every file, and try what is installed meanwhile. What is damaged came from uv's cache: fetched again, once."""
    from verlock.env import healing, verify

    making.receipt = _receipt(making)
    damage, step.detail = _tried(making)
    if spoilt := verify.packages_of(damage) & making.receipt["packages"].keys():
        _say_healing(damage)
        healing.prepare(making.chosen, making.receipt, damage)
        _wheels(making, step, again=spoilt | making.editable.keys())
        _patches(making, step)
        making.receipt = _receipt(making)
        damage, step.detail = _tried(making)
    if damage:
        raise IntegrityError.of(
            f"{damage[0].path or damage[0].package} of {damage[0].package or 'no package'}",
            damage[0].wanted,
            damage[0].got or damage[0].kind,
            "it stays so when installed again: the index or the disk gives other bytes than were locked; nothing was sealed",
        )


def _tried(making: Making) -> tuple[list[Damage], str]:
    """What is damaged, and what the checks beside found, for people. Raises what these raise where no damage explains it."""
    from concurrent.futures import ThreadPoolExecutor

    from verlock.env import import_check, verify

    chosen = making.chosen
    ran = receipt.Ran.of(making.base, making.missing, making.site_wheels, making.editable)
    with ThreadPoolExecutor(1) as beside:
        hashing = beside.submit(verify.examine, chosen, making.receipt, making.listed, making.hashed)
        said = ""
        try:
            said = import_check.run(chosen, ran, making.site_wheels, lambda: not hashing.result().damage)
        except (CheckFailed, InstallError):
            if not hashing.result().damage:
                raise
        found = hashing.result()
    making.receipt["fingerprint"] = found.fingerprint
    return found.damage, f"{said}; every file hashed"


def _receipt(making: Making) -> dict[str, Any]:
    """The receipt, but for the fingerprint."""
    from datetime import datetime, timezone

    from verlock import __version__
    from verlock.env import installed

    chosen = making.chosen
    packages = {name: {"version": each.version, "record": each.sha256} for name, each in making.listed.items()}
    for name, (_, sha256) in making.wheels.items():
        packages[name]["sha256"] = sha256
    return {
        "schema": receipt.SCHEMA,
        "verlock": __version__,
        "variant": chosen.name,
        "python": chosen.python,
        "digest": chosen.digest,
        "prefix": str(chosen.prefix),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "steps": list(STEPS),
        "base": making.base,
        "conda": [path.stem for path in installed.conda_records(chosen.prefix)],
        "packages": packages,
        "missing": making.missing,
        "site_wheels": making.site_wheels,
        "overrides": [each.model_dump() for each in chosen.recipe.override],
        "patches": making.patches,
        "source": making.source,
        "editable": _editable_entries(making),
        "files": making.owned,
        "folders": making.folders,
    }


def _editable_entries(making: Making) -> dict[str, dict[str, Any]]:
    """What the receipt says of each checkout, and of its edits as they are now."""
    if not making.editable:
        return {}
    from verlock.sources import editable

    found = {}
    for package, each in making.editable.items():
        where = editable.place(making.chosen.prefix, package)
        differs = editable.differences(where, each.commit)
        found[package] = {"checkout": str(where), "commit": each.commit, "tree": each.tree, "differs": differs}
    return found


def _seal(making: Making, step: console.Step) -> None:
    """Write the receipt, last of all. Its fingerprint is of before the files were hashed: what changed since is seen."""
    receipt.write(making.chosen.prefix, making.receipt)


# The walk, in its order: what the screen shows, what the receipt names, and what docs/how-it-works.md tells (a test compares).
STEPS: dict[str, Callable[[Making, console.Step], None]] = {
    "preflight": _preflight,
    "base": _base,
    "artefacts": _artefacts,
    "wheels": _wheels,
    "patches": _patches,
    "check": _check,
    "seal": _seal,
}


def _report(chosen: Chosen, sealed: dict[str, Any], verb: str, seconds: float) -> None:
    base, prefix = sealed["base"], chosen.prefix
    console.say(f"{chosen.name} is {verb}: {prefix} (base: {base['kind']}, Python {base['version']}, {seconds:.1f} s)")
    for line in receipt.said(sealed["site_wheels"]):
        console.say(f"  {line}")
    for package, entry in (sealed.get("editable") or {}).items():
        console.say(
            f"  editable: {package} is {entry['checkout']}{_example(chosen, package) if verb == 'ready' else ''}"
        )
    for each in sealed.get("overrides") or []:
        console.say(f"  set aside: {each['requirer']} asks for {each['requirement']}")
    for package, reason in sealed["missing"].items():
        console.warn(f"INCOMPLETE, {package} is missing: {reason}")
    if sealed["missing"]:
        _say_how_to_complete(chosen, sealed)
    if verb == "ready":
        import shlex

        conda = base["kind"] == "conda"
        how = shlex.join(["conda", "activate", str(prefix)] if conda else ["source", f"{prefix}/bin/activate"])
        also = f"    # without conda: nox -s shell -- {chosen.name} --python {chosen.python}" if conda else ""
        console.say(f"  {how}{also}")


def _example(chosen: Chosen, package: str) -> str:
    example = _checkouts(chosen, [package])[package].example
    return f", with {example} to begin with" if example else ""


def _say_how_to_complete(chosen: Chosen, sealed: dict[str, Any]) -> None:
    """Where a missing artefact may come from: its locked file, where one is locked, else a wheel of the user's own."""
    from verlock.env import flash_attn_build

    locked = {package for package, _ in digest.artefact_files(chosen.data, chosen.python)}
    if locked & sealed["missing"].keys():
        console.say(
            "  put the file into a folder, name that folder in VERLOCK_ARTEFACTS and run again; or run again with a network"
        )
    for package in sorted(sealed["missing"].keys() - locked):
        console.say(
            f"  a wheel of your own can take its place: `nox -s env-{chosen.name} -- --site-wheel {package}=FILE`"
        )
    if flash_attn_build.PACKAGE in sealed["missing"] and (wheel := flash_attn_build.built(chosen)):
        console.say(
            f"  or take the one that was built here: `nox -s env-{chosen.name} -- {flash_attn_build.taken(wheel)}`"
        )
