"""Writing locks: `verlock lock`. environments/ and recipes/ go in; locks/ come out, complete or not at all.

Each lock is a job of its own: its inputs are copied to a scratch folder, conda-lock, uv and pip-compile work there, and the
finished files are put in place together. A pin moves only when asked: what is locked already is preferred by all resolvers.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from packaging.version import Version

from verlock import console, paths
from verlock.conda import client
from verlock.errors import LockError, NetworkError, RecipeError, ResolverDisagreement, VerlockError
from verlock.locking import lock_diff, lock_inputs, locked_files, overrides, resolvers, staleness, sums
from verlock.locking.loopback_index import Index, serve
from verlock.system import files
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen, choose, names
from verlock.variant.lockfiles import BUILD_REQUIREMENTS, CONDA_LOCK, FILES, REQUIREMENTS, SOURCES, Pin

_MEMORY = 1_500_000_000  # bytes; a pip-compile of 184 packages takes 0.4 GB, a conda solve on the whole of conda-forge about 1


@dataclass(frozen=True)
class Wish:
    """What the caller asks for; `upgrade` is None to move nothing, empty to let everything move."""

    upgrade: tuple[str, ...] | None = None
    cutoff: date | None = None
    no_cutoff: bool = False

    @property
    def trial(self) -> bool:
        """Whether this run tries another cut-off than the recipe's: its result is shown, never written."""
        return self.no_cutoff or self.cutoff is not None

    def date_for(self, chosen: Chosen) -> date | None:
        """The cut-off for a variant in this run; None for no cut-off."""
        return None if self.no_cutoff else self.cutoff or chosen.recipe.cutoff.date


def run(variants: Sequence[str] = (), *, upgrade: Sequence[str] | None = None, cutoff: str | None = None) -> int:
    """Resolve and write the locks of these variants (all when none is named), for every Python of their recipes.

    Args:
        variants: names; `tools` is verlock's own tools.
        upgrade: None moves only pins that must move; names let those packages move; an empty sequence lets all move.
        cutoff: a date (YYYY-MM-DD) or `none` to try instead of the recipes' own: the diff is shown and nothing is written.

    Returns:
        0, or the exit code of the first lock that failed; the others are still written.

    Raises:
        UnknownVariant, RecipeError, LockError: before anything is resolved.
    """
    wish = Wish(None if upgrade is None else tuple(lockfiles.normalise(name) for name in upgrade), *_cutoff(cutoff))
    named = list(dict.fromkeys(variants)) or names()
    jobs = [chosen for name in named if name != lockfiles.TOOLS for chosen in choose(name).valid().pythons()]
    before = lock_diff.tree()
    _can_move(wish, named, before)
    failures: list[VerlockError] = []
    trials: lock_diff.Tree = {}
    tools = lockfiles.TOOLS in named or not variants
    wanted = [*(["verlock's tools"] if tools else []), *([f"{len(jobs)} locks"] if jobs else [])]
    with serve() as index, console.step("lock", " and ".join(wanted)) as progress:
        index.prefetch(_known_projects())
        if tools:
            _tools(wish, index)
            sums.update([] if wish.trial else [paths.LOCKS / lockfiles.TOOLS])
        for finished, (job, result) in enumerate(_each(jobs, lambda chosen: _lock(chosen, wish, index)), 1):
            title = f"{job.name} {job.python}"
            if isinstance(result, VerlockError):
                failures.append(result)
                console.warn(f"{title}: {result}")
                progress.detail = f"{finished} of {len(jobs)}, {title} failed"
            else:
                trials.update(result)
                sums.update([] if wish.trial else [job.locks])
                progress.detail = f"{finished} of {len(jobs)}, {title}"
                console.say(f"  {title} done, {finished} of {len(jobs)}")
    after = {**before, **trials} if wish.trial else lock_diff.tree()
    lock_diff.show(lock_diff.compare(before, after), empty="nothing changed")
    if wish.trial:
        console.say(
            "this was a trial: nothing was written; to keep it, change cutoff.date in the recipe and lock again"
        )
    return failures[0].exit_code if failures else 0


def _can_move(wish: Wish, named: Sequence[str], before: lock_diff.Tree) -> None:
    """Raises LockError where a package to upgrade is in none of these locks: it would be passed over in silence."""
    locked = {
        lockfiles.normalise(package)
        for (place, _), layer in before.items()
        for package in layer
        if place.partition("/")[0] in (*named, lockfiles.TOOLS)
    }
    for name in wish.upgrade or ():
        if locked and name not in locked:
            near = difflib.get_close_matches(name, locked, n=3)
            remedy = (
                f"did you mean {' or '.join(near)}?" if near else "`nox -s why -- VARIANT PACKAGE` tells what is locked"
            )
            if name in names():
                remedy = f"name variants before the option: `nox -s lock -- {name} --upgrade ...`"
            raise LockError(f"--upgrade {name}: none of the locks of {', '.join(named)} has such a package", remedy)


def _cutoff(text: str | None) -> tuple[date | None, bool]:
    if text is None:
        return None, False
    if text == "none":
        return None, True
    try:
        return date.fromisoformat(text), False
    except ValueError:
        raise RecipeError(f"--cutoff {text}: not a date", "write it as 2025-04-03, or say none") from None


def _each(
    jobs: Sequence[Chosen], work: Callable[[Chosen], lock_diff.Tree]
) -> Iterator[tuple[Chosen, lock_diff.Tree | VerlockError]]:
    """Run the jobs side by side, as many as cores and memory allow, and yield each result as it comes."""
    # the other Pythons start from the lock of the first Python, so that one is made first
    rounds = [
        [job for job in jobs if job.python == job.first_python],
        [job for job in jobs if job.python != job.first_python],
    ]
    width = max(1, min(len(jobs), len(os.sched_getaffinity(0)), _free_memory() // _MEMORY))
    for batch in rounds:
        with ThreadPoolExecutor(width) as pool:
            futures = {pool.submit(work, job): job for job in batch}
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except VerlockError as error:
                    yield futures[future], error


def _free_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 2 * _MEMORY


def _known_projects() -> list[str]:
    found = {
        pin.name
        for path in paths.LOCKS.glob("*/requirements.txt")
        if path.parent.name != "tools"
        for pin in lockfiles.pins(path)
    }
    return sorted(found)


# one lock --------------------------------------------------------------------------------------------


def _lock(chosen: Chosen, wish: Wish, index: Index) -> lock_diff.Tree:
    """Make one lock; returns it as `lock_diff` reads it. A trial leaves nothing else."""
    folder = chosen.locks
    relative = folder.relative_to(paths.LOCKS)
    with _workspace() as work:
        out = work / "locks" / relative
        out.mkdir(parents=True)
        if wish.trial and not (folder / CONDA_LOCK).exists():
            raise LockError(
                f"{paths.shown(folder / CONDA_LOCK)} is missing", "lock first; a trial is compared with a lock"
            )
        _conda_layer(chosen, wish, work, out)
        _pip_layers(chosen, wish, work, out, index)
        _layers_agree(chosen, out)
        if not wish.trial:
            (out / FILES).write_text(locked_files.text(chosen, out, index), encoding="utf-8")
            _land(chosen, out, folder)
        return lock_diff.tree(work / "locks")


@contextmanager
def _workspace() -> Iterator[Path]:
    """A scratch copy of environments/: relative paths in locks then mean the same as in the clone."""
    with tempfile.TemporaryDirectory(prefix="verlock-lock-") as name:
        work = Path(name).resolve()
        shutil.copytree(paths.ENVIRONMENTS, work / "environments")
        yield work


def _conda_layer(chosen: Chosen, wish: Wish, work: Path, out: Path) -> None:
    current = chosen.locks / CONDA_LOCK
    sources = [f"environments/{path.relative_to(paths.ENVIRONMENTS)}" for path in lock_inputs.environment_files(chosen)]
    variables: dict[str, str] = {}
    if current.exists():
        variables["VERLOCK_CONDA_LOCKED"] = str(current)
        offline = not os.environ.get("VERLOCK_CONDA_REPODATA") and not client.reachable(
            current, client.mirrors_from_environment()
        )
        if wish.trial and offline:
            console.say(
                f"  {chosen.name} {chosen.python}: no conda channel answers; the trial leaves the conda layer as it is"
            )
            shutil.copy2(current, out / CONDA_LOCK)
            return
        if wish.trial or wish.upgrade is not None:
            variables["VERLOCK_CONDA_UPGRADE"] = ",".join(wish.upgrade or ()) or "*"
        elif offline:
            if staleness.conda(chosen, current) or not _as_written(current):
                raise NetworkError(
                    "the inputs of the conda layer or its lock changed, and no conda channel answers",
                    "lock where the channel can be reached, name a mirror in VERLOCK_CONDA_MIRROR, or in "
                    "VERLOCK_CONDA_REPODATA a folder with the channel's linux-64/repodata.json and noarch/repodata.json",
                )
            console.say(
                f"  {chosen.name} {chosen.python}: no conda channel answers; the layer is confirmed from its locked packages"
            )
            variables["VERLOCK_CONDA_LOCKED_ONLY"] = "1"
    target = f"{out.relative_to(work)}/{CONDA_LOCK}"
    virtual = lock_inputs.virtual_packages(chosen.recipe, wish.date_for(chosen))
    resolvers.conda_lock(work, sources, target, virtual, **variables)


def _pip_layers(chosen: Chosen, wish: Wish, work: Path, out: Path, index: Index) -> None:
    cutoff = wish.date_for(chosen)
    sdists = tuple(sorted(lockfiles.normalise(sdist.package) for sdist in chosen.recipe.sdist))
    # a trial shows what would be taken; whether a pre-release is allowed is checked when the lock is written
    prereleases = None if wish.trial else tuple(lockfiles.normalise(each.package) for each in chosen.recipe.prerelease)
    target = resolvers.Target(chosen.python, chosen.recipe.platform.glibc, cutoff, sdists, prereleases)
    # in a trial everything may move: pins of the old date would hide what the new one brings
    upgrade = () if wish.trial else wish.upgrade
    place = str(out.relative_to(work))
    for name, which, constraint in (
        (REQUIREMENTS, target, ""),
        (BUILD_REQUIREMENTS, replace(target, sdists=()), f"{place}/{REQUIREMENTS}"),
    ):
        (out / name).write_text(_preferences(chosen, name), encoding="utf-8")
        source = f"environments/{chosen.name}/{name.removesuffix('.txt')}.in"
        aside = lock_inputs.overrides(chosen, name)
        question = resolvers.Question(work, source, f"{place}/{name}", which, constraint, aside)
        proposed = resolvers.propose(question, index, upgrade=upgrade)
        resolvers.ratify(question, index, proposed)
        if not wish.trial:
            overrides.needed(question, index, proposed)
        pins = [_canonical(pin, place) for pin in resolvers.admissible(proposed, which, index)]
        (out / name).write_text(resolvers.render(lock_inputs.header(chosen, name), pins), encoding="utf-8")


def _canonical(pin: Pin, place: str) -> Pin:
    """The pin with plain paths in its `# via` lines, and without the line that only names the constraint, our own lock."""
    askers = [asker for asker in pin.via if asker != f"-c {place}/{REQUIREMENTS}"]
    via = {f"-r {os.path.normpath(asker[3:])}" if asker.startswith("-r ") else asker for asker in askers}
    return replace(pin, via=tuple(sorted(via)))


def _preferences(chosen: Chosen, name: str) -> str:
    """The pins to keep: this lock's, else those of the variant's first Python. No hashes: uv would keep them unchecked.

    A pre-release that the recipe does not name is not kept.
    """
    named = {lockfiles.normalise(each.package) for each in chosen.recipe.prerelease}
    for path in (chosen.locks / name, chosen.with_python(None).locks / name):
        if path.exists():
            kept = [pin for pin in lockfiles.pins(path) if pin.name in named or not Version(pin.version).is_prerelease]
            return "".join(f"{pin.name}=={pin.version}\n" for pin in kept)
    return ""


def _layers_agree(chosen: Chosen, out: Path) -> None:
    """Check that a distribution in both layers has the same version in both. Raises ResolverDisagreement."""
    pins = {pin.name: pin.version for pin in lockfiles.pins(out / REQUIREMENTS)}
    differing = [
        f"{item['name']}: conda {item['version']}, pip {pins[name]}"
        for item in lockfiles.conda_packages(out / CONDA_LOCK)
        for name in [lockfiles.normalise(item["name"])]
        if item["python"] and pins.get(name, item["version"]) != item["version"]
    ]
    if differing:
        raise ResolverDisagreement(
            f"{chosen.name} {chosen.python}: the conda and the pip layer hold different versions\n  "
            + "\n  ".join(differing),
            "pin the same version in environments/common/environment.yml and environments/common/base.in",
        )


def _land(chosen: Chosen, out: Path, folder: Path) -> None:
    """Put the finished files in place; sources.json is made from them, and when that fails the old files are restored."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (CONDA_LOCK, REQUIREMENTS, BUILD_REQUIREMENTS, FILES)
    old = {name: (folder / name).read_bytes() for name in (*names, SOURCES) if (folder / name).exists()}
    try:
        for name in names:
            _replace(folder / name, (out / name).read_bytes())
        if _sources_hold(chosen, folder, old):
            pass
        elif chosen.recipe.patch or chosen.recipe.source:
            from verlock.sources import patches, source_wheel

            locked = source_wheel.lock(chosen) if chosen.recipe.source else patches.lock(chosen)
            content = json.dumps(locked, indent=1) + "\n"
            _replace(folder / SOURCES, content.encode())
        else:
            (folder / SOURCES).unlink(missing_ok=True)
    except BaseException:
        for name in (*names, SOURCES):
            if name in old:
                _replace(folder / name, old[name])
            else:
                (folder / name).unlink(missing_ok=True)
        raise
    if (folder / SOURCES).exists():
        shutil.copy2(folder / SOURCES, out / SOURCES)


def _sources_hold(chosen: Chosen, folder: Path, old: dict[str, bytes]) -> bool:
    """Whether sources.json can stay: it names the same patches and source, on the same pins and build tools.

    Without this, a lock in which nothing changed would unpack vLLM, or even build it, only to write the same bytes; `create` and
    `verify` check the bytes against it anyway.
    """
    same = all(old.get(name) == (folder / name).read_bytes() for name in (REQUIREMENTS, BUILD_REQUIREMENTS))
    return (
        same
        and SOURCES in old
        and bool(chosen.recipe.patch or chosen.recipe.source)
        and not staleness.sources(chosen.recipe, folder / SOURCES)
        and _as_written(folder / SOURCES)
    )


def _as_written(lock: Path) -> bool:
    """Whether a lock is what the last `verlock lock` wrote, so that what it says need not be found out again."""
    try:
        return sums.written(sums.read(), lock)
    except LockError:
        return False


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step; a file that would not change is left alone."""
    if not path.exists() or path.read_bytes() != content:
        files.write_whole(path, content)


# verlock's own tools ----------------------------------------------------------------------------------


def _tools(wish: Wish, index: Index) -> None:
    """Lock the tools: each set is one file for CPython 3.10 and newer. Only uv can make that, so pip does not confirm it."""
    if wish.trial:
        return
    made: dict[str, bytes] = {}
    with _workspace() as work:
        for name in lock_inputs.tools_sets():
            pins = resolvers.propose_universal(work, name, lock_inputs.tools_cutoff(), index, upgrade=wish.upgrade)
            made[name] = (lock_inputs.tools_header(name, made.get(lockfiles.BASE_TOOLS)) + pins).encode()
    for name, content in made.items():  # only now: the sets belong together
        _replace(paths.LOCKS / lockfiles.TOOLS / f"{name}.txt", content)
