"""Wheels built from a git commit: its tree, our patches, and the compiled objects of a released wheel that is locked by hash.

The package's own setup.py does the work, without the user's environment variables. `VLLM_PRECOMPILED_WHEEL_LOCATION` tells
it which wheel to take the objects from; by itself it would take the nightly of the day. `wheel_archive` then writes what
setup.py leaves in its tree, so the same inputs give the same sha256 on any day, in any folder, under any locale, and with
every Python of the recipe. The cache keeps wheels by sha256, with an index by the digest of inputs.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import zipfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import console
from verlock.errors import BuildError, IntegrityError, NoBase, StaleLock
from verlock.sources import git_commit, patches, wheel_archive, wheel_store
from verlock.system import files, host_python, process, uv
from verlock.variant import record

if TYPE_CHECKING:
    from verlock.variant.chosen import Chosen
    from verlock.variant.recipe import Recipe, Source

_METHOD = 1  # raise it when a change here makes other bytes from the same inputs
# runs setup.py unchanged, except that the version is fixed: setup.py would append to it how it was built
_DRIVER = """
import runpy, setuptools, sys
version, sys.argv = sys.argv[1], ["setup.py", *sys.argv[2:]]
setup = setuptools.setup
setuptools.setup = lambda **keywords: setup(**{**keywords, "version": version})
runpy.run_path("setup.py", run_name="__main__")
"""


# What others call ----------------------------------------------------------------------------------


def cached(recipe: Recipe, locked: dict[str, Any]) -> Path | None:
    """The wheel that the lock names, from the cache or the folder `VERLOCK_ARTEFACTS`, with its sha256 checked; else None.

    Args:
        recipe: a variant with a source.
        locked: `wheel` of sources.json.

    Raises StaleLock when recipe or patches changed after the lock was made.
    """
    if locked["inputs"] != inputs(recipe):
        raise StaleLock(
            f"{recipe.name}: the source or a patch changed after the lock was made",
            f"lock again: `nox -s lock -- {recipe.name}`",
        )
    return wheel_store.kept(locked["filename"], locked["sha256"])


def wheel(recipe: Recipe, python_exe: Path, build_requirements: Path, locked: dict[str, Any] | None) -> Path:
    """The wheel of the recipe's source: from the cache, else built.

    Args:
        recipe: a variant with a source.
        python_exe: a CPython with the variant's requirements installed, since setup.py imports torch.
        build_requirements: hashed pins of the build tools, which go into a scratch folder and never into that environment.
        locked: `wheel` of sources.json; None while the lock is being made.

    Raises:
        IntegrityError: the bytes built are not those of the lock, or the released wheel has another sha256.
        BuildError: setup.py fails, or takes no compiled objects.
        NetworkError, and whatever `git_commit.checkout` raises.
    """
    assert recipe.source is not None
    index = _index(recipe, build_requirements)
    if found := cached(recipe, locked) if locked else _indexed(index):
        return found
    git_commit.store(recipe.source)  # first, since it may be unreachable, and the next line downloads 265 MB
    donor = wheel_store.precompiled(recipe.source.precompiled, recipe.python[0])
    with (
        wheel_store.scratch("build") as work,
        console.step("build", f"{recipe.source.package} {recipe.source.commit[:8]}"),
    ):
        built = _build(recipe, _Workshop(python_exe, build_requirements, donor, work))
        sha256 = files.sha256(built)
        if locked and sha256 != locked["sha256"]:
            raise IntegrityError.of(
                f"{built.name} as built here",
                locked["sha256"],
                sha256,
                "the same inputs must give the same bytes: please report it, with the Python and the processor of this machine",
            )
        kept = wheel_store.keep(built, sha256)
    files.write_whole(index, json.dumps({"filename": kept.name, "sha256": sha256}))
    return kept


def lock(chosen: Chosen) -> dict[str, Any]:
    """sources.json of a variant with a source: what its patches do to the tree, and the wheel. Raises as `wheel` does."""
    recipe, source = chosen.recipe, chosen.recipe.source
    assert source is not None
    build_requirements = chosen.pip_layer().build_requirements
    with wheel_store.scratch("tree") as work:
        git_commit.checkout(source, work / "tree")
        touched = patches.measure(recipe, work / "tree")
    built = _indexed(_index(recipe, build_requirements))
    if built is None:
        with wheel_store.scratch("env") as work:
            built = wheel(recipe, _environment_of(chosen, work / "env"), build_requirements, None)
    return {
        "patches": touched,
        "wheel": {
            "filename": built.name,
            "sha256": built.parent.name,
            "size": built.stat().st_size,
            "commit": source.commit,
            "tree": source.tree,
            "precompiled": source.precompiled.sha256,
            "inputs": inputs(recipe),
        },
    }


def inputs(recipe: Recipe) -> str:
    """A sha256 of what the wheel is made from, except the build tools (the locked sha256 of the wheel covers those)."""
    source = recipe.source
    assert source is not None
    parts = [
        source.package,
        source.version,
        source.commit,
        source.tree,
        source.precompiled.sha256,
        source.date.isoformat(),
    ]
    parts += [file.sha256 for file in patches.read(recipe) if file.patch.package == source.package]
    return hashlib.sha256("\n".join([str(_METHOD), *parts]).encode()).hexdigest()


# Building ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Workshop:
    """What setup.py runs with: a Python, its build tools, the wheel that gives the objects, and a scratch folder."""

    python_exe: Path
    build_requirements: Path
    donor: Path
    work: Path


def _build(recipe: Recipe, shop: _Workshop) -> Path:
    source, donor = recipe.source, shop.donor
    assert source is not None
    tree, dist = shop.work / "tree", shop.work / "dist"
    git_commit.checkout(source, tree)
    patches.measure(recipe, tree, into=tree)
    before = {path.relative_to(tree).as_posix() for path in tree.rglob("*")}
    interpreter, abi, platform = donor.stem.split("-")[-3:]
    if abi != "abi3":
        raise BuildError(f"{donor.name} is for one Python only", "name a wheel of the stable ABI in source.precompiled")
    tags = ["--py-limited-api", interpreter, "--plat-name", platform]
    _setup(source, shop, tree, "bdist_wheel", *tags, "--dist-dir", str(dist))
    return _normalised(source, next(dist.glob("*.whl")), tree, before, donor)


def _setup(source: Source, shop: _Workshop, tree: Path, *command: str) -> None:
    """Run setup.py in `tree` without the user's environment variables. Raises BuildError with the end of its log."""
    tools, home = shop.work / "tools", shop.work / "home"
    home.mkdir()
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", str(shop.python_exe)]
    uv.cached_or_fetched(
        ["pip", "install", *options, "--target", str(tools), "--requirement", str(shop.build_requirements)]
    )
    environment = process.BUILD.environment(
        HOME=str(home),
        TMPDIR=str(home),
        PYTHONPATH=str(tools),
        SOURCE_DATE_EPOCH=str(_epoch(source)),
        GIT_CEILING_DIRECTORIES=str(tree.parent),
        SETUPTOOLS_SCM_PRETEND_VERSION=source.version,
        VLLM_TARGET_DEVICE="cuda",
        VLLM_USE_PRECOMPILED="1",
        VLLM_PRECOMPILED_WHEEL_LOCATION=str(shop.donor),
    )
    done = subprocess.run(
        process.bound([shop.python_exe, "-c", _DRIVER, source.version, *command]),
        cwd=tree,
        env=environment,
        umask=0o022,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise BuildError(
            f"setup.py of {source.package} {source.commit[:12]} fails\n{process.tail(done.stdout, 15)}",
            "the last lines above are from setup.py",
        )


def _normalised(source: Source, made: Path, tree: Path, before: set[str], donor: Path) -> Path:
    """A wheel that depends only on its content: dist-info from setup.py's wheel, all else from the tree that setup.py left.

    setup.py collects what goes into its wheel before it unpacks the objects; the tree is what an editable install shows.
    """
    with zipfile.ZipFile(made) as draft, zipfile.ZipFile(donor) as released:
        inside = {name: draft.read(name) for name in draft.namelist() if not name.endswith(("/", "/RECORD"))}
        info = next(name.partition("/")[0] for name in inside if name.partition("/")[0].endswith(".dist-info"))
        top = inside[f"{info}/top_level.txt"].decode().split()
        members = {member.filename: member for member in released.infolist()}
        listed = next(name for name in members if name.endswith(f".dist-info/{record.NAME}"))
        recorded = {row.path: row.sha256 for row in record.rows(released.read(listed).decode().splitlines())}
    version = re.search(r"^Version: (.*)$", inside[f"{info}/METADATA"].decode(), re.MULTILINE)
    if version is None or version[1] != source.version:
        raise BuildError(f"setup.py made version {version and version[1]}, the recipe names {source.version}")
    contents = {name: data for name, data in inside.items() if name.startswith(f"{info}/")}
    taken = set()
    for path in sorted(path for package in top for path in (tree / package).rglob("*") if path.is_file()):
        name = path.relative_to(tree).as_posix()
        if "__pycache__" in path.parts:
            continue
        contents[name] = path.read_bytes()
        if name not in before and recorded.get(name) == hashlib.sha256(contents[name]).hexdigest():
            taken.add(name)
    _must_be_released_objects(set(inside), set(contents), taken, donor)
    own = f"{info}/{record.NAME}"
    entries = {
        name: wheel_archive.Entry(donor=donor, member=members[name]) if name in taken else wheel_archive.Entry(data)
        for name, data in contents.items()
    }
    entries[own] = wheel_archive.Entry(record.text(contents.items(), own).encode())
    final = made.parent.parent / made.name
    wheel_archive.write(final, entries, _epoch(source))
    return final


def _must_be_released_objects(packed: set[str], kept: set[str], taken: set[str], donor: Path) -> None:
    """Check that all compiled objects are from the released wheel, and that nothing setup.py packs is lost. Raises BuildError."""
    objects = {name for name in kept if name.endswith(".so")}
    if not objects & taken:
        raise BuildError(f"setup.py took no compiled objects from {donor.name}", "the wheel would not work: report it")
    if odd := sorted(objects - taken):
        raise BuildError(
            f"{odd[0]} is not the one in {donor.name}", "a build must not compile anything itself: report it"
        )
    if lost := sorted(packed - kept):
        raise BuildError(f"setup.py packs {lost[0]}, which is not in its tree", "this is a bug of verlock: report it")


def _epoch(source: Source) -> int:
    """SOURCE_DATE_EPOCH: the day of the commit."""
    return int(datetime(source.date.year, source.date.month, source.date.day, tzinfo=timezone.utc).timestamp())


def _index(recipe: Recipe, build_requirements: Path) -> Path:
    """The cache file that says which wheel these inputs and build tools gave."""
    tools = hashlib.sha256(build_requirements.read_bytes()).hexdigest()
    return wheel_store.root() / "by-inputs" / f"{inputs(recipe)[:32]}-{tools[:32]}.json"


def _indexed(index: Path) -> Path | None:
    try:
        entry = json.loads(index.read_text(encoding="utf-8"))
        return wheel_store.kept(entry["filename"], entry["sha256"])
    except (OSError, ValueError, KeyError):
        return None


def _environment_of(chosen: Chosen, prefix: Path) -> Path:
    """A scratch environment with the locked requirements, of hardlinks: it takes seconds and no space. Raises NoBase."""
    found = host_python.find(chosen.python)
    if found is None:
        raise NoBase(
            f"locking {chosen.name} builds a wheel with CPython {chosen.python}, which is not on this machine",
            "install it",
        )
    uv.make_venv(found.executable, prefix, "verlock-lock")
    python_exe = prefix / "bin" / "python"
    uv.sync(python_exe, chosen.pip_layer())
    return python_exe
