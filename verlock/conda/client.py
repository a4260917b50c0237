"""The conda layer, solved and installed with py-rattler, always in a child process.

The child (`verlock.conda.engine`) is needed: the interpreter can die by a signal at exit after all of rattler's work succeeded
(https://github.com/PyO3/pyo3-async-runtimes/issues/40). One JSON object goes in on standard input, one comes out on standard
output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from verlock import console, errors, paths
from verlock.errors import InstallError, NetworkError
from verlock.system import addresses, process


def install(lock: Path, prefix: Path, cache: Path, *, mirrors: Sequence[str] = ()) -> None:
    """Make `prefix` hold exactly the packages of a conda-lock.yml; repairs a partial or damaged prefix.

    Args:
        lock: the conda-lock.yml; only its linux-64 packages are used.
        prefix: the environment's folder, made if it does not exist.
        cache: rattler's package cache; its files are hashed, then hardlinked into the prefix.
        mirrors: URLs or folders asked before the channel, for every channel of the lock (`mirrors_from_environment`).

    Raises:
        LockError: a package has no sha256, or the file is not a conda-lock.yml.
        NetworkError: neither a mirror nor the channel gives a package; each is named with its reason.
        IntegrityError: no place has the locked bytes of a package, and one has others.
        InstallError: anything else that rattler reports.
    """
    done = _in_child("install", lock=str(lock), prefix=str(prefix), cache=str(cache), mirrors=list(mirrors))
    for note in done["notes"]:
        console.warn(note)


@dataclass(frozen=True)
class Offer:
    """What a solve chooses from, and what it prefers.

    cutoff: packages that the channel got (or, where it does not say when, that were built) on or after 00:00 UTC of this day
        are ignored, and so are those without a date; unused with `locked_only`, since a conda-lock.yml holds no dates.
    repodata: a folder with `linux-64/repodata.json` and `noarch/repodata.json`, read instead of the first channel's.
    locked: a conda-lock.yml whose packages are preferred.
    locked_only: choose only from the packages of `locked`: confirm, without a network, that they satisfy the specs.
    upgrade: names of packages not to prefer from `locked`; `*` for all.
    mirrors: as for `install`.
    """

    cutoff: date | None = None
    repodata: Path | None = None
    locked: Path | None = None
    locked_only: bool = False
    upgrade: Sequence[str] = ()
    mirrors: Sequence[str] = ()


def solve(
    specs: Sequence[str], channels: Sequence[str], virtual: Sequence[tuple[str, str, str]], offer: Offer
) -> list[dict[str, Any]]:
    """Solve conda specs for linux-64.

    Args:
        specs: match specs, such as `python 3.10.*`.
        channels: channel URLs, best first.
        virtual: name, version and build of each virtual package (`__glibc`, ...); none is taken from this machine.
        offer: what there is to choose from.

    Returns:
        The repodata record of each chosen package, with its `url`, sorted by name.

    Raises:
        ResolutionError: the specs contradict each other, or name a package that no channel has.
        NetworkError: no channel answers.
    """
    records: list[dict[str, Any]] = _in_child(
        "solve",
        specs=list(specs),
        channels=list(channels),
        virtual=[list(item) for item in virtual],
        cutoff=offer.cutoff.isoformat() if offer.cutoff else None,
        repodata=str(offer.repodata) if offer.repodata else None,
        locked=str(offer.locked) if offer.locked else None,
        locked_only=offer.locked_only,
        upgrade=list(offer.upgrade),
        mirrors=list(offer.mirrors),
        cache=str(cache_dir() / "repodata"),
    )
    return records


def ask(lock: Path, mirrors: Sequence[str] = (), cache: Path | None = None) -> None:
    """Ask for the first package of a conda-lock.yml, so that an install which is bound to fail need not begin.

    Takes 6 seconds at most. With `cache` (as for `install`) nobody is asked where all packages of the lock are in it.

    Raises:
        NetworkError: neither a mirror nor the channel begins to answer; each is named with its reason.
    """
    _in_child("ask", lock=str(lock), mirrors=list(mirrors), cache=str(cache) if cache else None)


def reachable(lock: Path, mirrors: Sequence[str] = (), cache: Path | None = None) -> bool:
    """Whether `ask` finds no reason against an install."""
    try:
        ask(lock, mirrors, cache)
    except NetworkError:
        return False
    return True


def fetch(lock: Path, folder: Path, *, mirrors: Sequence[str] = ()) -> dict[str, Path]:
    """Have the packages of a conda-lock.yml as files, by their sha256: `folder`/<sha256>/<file>; what is there whole is kept.

    Returns path in the channel (such as linux-64/p-1-0.conda) -> file. Raises as `install`.
    """
    found: dict[str, str] = _in_child(
        "fetch", lock=str(lock), folder=str(folder), mirrors=list(mirrors), cache=str(folder)
    )
    return {tail: Path(path) for tail, path in found.items()}


def convert(lock: Path, output: Path) -> None:
    """Write the packages of a conda-lock.yml as a lock file of rattler's own. Raises InstallError."""
    _in_child("convert", lock=str(lock), output=str(output))


def cache_dir() -> Path:
    """Where rattler keeps packages and lists of packages: below `VERLOCK_CACHE`."""
    return paths.cache_dir() / "conda"


def mirrors_from_environment() -> list[str]:
    """The conda mirrors: a bundle's packages, then those of `VERLOCK_CONDA_MIRROR`, URLs or folders separated by commas."""
    bundle = paths.bundle_dir()
    carried = [str(bundle / "conda")] if bundle else []
    return [*carried, *_users_mirrors()]


def _users_mirrors() -> list[str]:
    return [item.strip() for item in os.environ.get("VERLOCK_CONDA_MIRROR", "").split(",") if item.strip()]


def _in_child(action: str, **job: Any) -> Any:
    done = subprocess.run(
        process.bound([sys.executable, "-m", "verlock.conda.engine", action]),
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=process.OWN.environment(PYTHONPATH=str(paths.ROOT), **addresses.certificates()),
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()[-1:] or [f"it exited with {done.returncode} and said nothing"]
        raise InstallError(f"the conda engine died: {said[0]}", "run it again; finished parts are kept") from None
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["problem"], answer["remedy"])
    return answer["result"]


def split_url(url: str) -> tuple[str, str, str]:
    """The parts of a package's URL: `https://host/channel`, the host, and `linux-64/name-1.0-0.conda`."""
    base, subdir, name = url.rsplit("/", 2)
    return base, urlsplit(url).netloc or "this machine", f"{subdir}/{name}"
