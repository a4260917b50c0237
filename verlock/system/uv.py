"""The pip layer: uv installs exactly the locked set, every file hashed, hardlinked from its cache."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from verlock import console
from verlock.errors import DiskTooSmall, InstallError, IntegrityError, NetworkError, VerlockError

_DNS_OR_CONNECT = re.compile(
    r"dns error|error sending request|Could not connect|Failed to fetch|timed out", re.IGNORECASE
)
_REFUSED = re.compile(r"HTTP status (?:client|server) error \(([^)]+)\)")
# Settings that decide what is installed or into what, as container images have them; the lock and verlock decide that. Those
# that say from where and how (indexes, mirrors, certificates, caches, link mode, timeouts) are the user's.
_NOT_PASSED_ON = frozenset(
    f"UV_{name}"
    for name in (
        *("SYSTEM_PYTHON", "PYTHON", "BREAK_SYSTEM_PACKAGES", "TARGET", "PREFIX", "PROJECT", "WORKING_DIR"),
        *("NO_VERIFY_HASHES", "TORCH_BACKEND", "EXCLUDE_NEWER", "PRERELEASE", "RESOLUTION", "CONSTRAINT", "OVERRIDE"),
        *("BUILD_CONSTRAINT", "EXCLUDE", "NO_BINARY", "NO_BINARY_PACKAGE", "NO_BUILD", "NO_BUILD_PACKAGE"),
        *("NO_BUILD_ISOLATION", "VENV_SEED", "VENV_RELOCATABLE", "VENV_CLEAR", "REQUIRE_HASHES"),
    )
)
_CACHE_PATIENCE = 10.0  # seconds to wait for another uv to be done with the cache
_URL_HOST = re.compile(r"https?://([^/`\s]+)")


def uv() -> str:
    """The uv of verlock's own tools, else the one on PATH. Raises InstallError when there is none."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise InstallError(
            "uv is not installed beside verlock", "run verlock through nox, which installs its locked tools"
        )
    return found


def sync(
    python: Path,
    requirements: Path,
    local_wheels: dict[str, Path],
    *,
    sdists: Iterable[str],
    build_requirements: Path,
    hashes: dict[str, str],
    again: Iterable[str] = (),
) -> None:
    """Make the packages beside `python` exactly those of `requirements` and `local_wheels`, no more and no fewer.

    Args:
        python: the environment's interpreter.
        requirements: the pip layer's lock; every line carries hashes and uv refuses anything else.
        local_wheels: package name -> verified wheel file from outside the index.
        sdists: packages that may be built from their locked sdist; all others must be wheels.
        build_requirements: hashed pins of what such a build may use.
        hashes: package name -> hex sha256 of its local wheel.
        again: packages to install once more though they are there.

    Raises:
        IntegrityError: an artefact has another sha256 than its lock.
        NetworkError: an index does not answer.
        InstallError: anything else uv refuses.
    """
    command = ["pip", "sync", "--python", str(python), "--require-hashes", "--only-binary", ":all:"]
    for name in sdists:
        command += ["--no-binary", name]
    for name in sorted(again):
        command += ["--reinstall-package", name]
    command += ["--build-constraints", str(build_requirements), str(requirements)]
    lines = [f"{name} @ {path.as_uri()} --hash=sha256:{hashes[name]}\n" for name, path in sorted(local_wheels.items())]
    if lines:
        command.append("-")  # a second requirements file, read from standard input
    _run(command, stdin="".join(lines))


def make_venv(interpreter: Path, prefix: Path, prompt: str) -> None:
    """A bare virtual environment at `prefix` on a host interpreter. Raises InstallError."""
    _run(["venv", "--python", str(interpreter), "--prompt", prompt, "--allow-existing", str(prefix)])


def check(python: Path) -> None:
    """Are all requirements of all installed packages met? Raises InstallError with the list when not."""
    _run(["pip", "check", "--python", str(python)])


def cache() -> Path:
    """The folder of uv's cache."""
    return Path(_run(["cache", "dir"]).strip())


@contextmanager
def counting(tell: Callable[[int], None]) -> Iterator[None]:
    """While this is open, `tell` how many packages have come into uv's cache since, whenever that grows."""
    store = cache() / "archive-v0"  # a folder per unpacked wheel, moved there when it is whole

    def packages() -> int:
        with contextlib.suppress(OSError):
            return sum(1 for _ in store.iterdir())
        return 0

    before, over, said = packages(), threading.Event(), 0

    def look() -> None:
        nonlocal said
        while True:
            last = over.wait(0.5)
            if (now := packages() - before) > said:
                said = now
                tell(now)
            if last:
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def cached(requirements: Path, python: str, sdists: Iterable[str]) -> bool:
    """Is every file of a lock in uv's cache already, so that an install downloads nothing? Takes half a second."""
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", python]
    for name in sdists:
        options += ["--no-binary", name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run(["pip", "install", "--offline", "--dry-run", "--target", folder, *options, "-r", str(requirements)])
        except VerlockError:
            return False
    return True


def forget(packages: Iterable[str]) -> None:
    """Drop packages from uv's cache, where an edit of a hardlinked file spoils every later install."""
    command = ["cache", "clean", *sorted(packages)]
    try:
        _run(command, patience=_CACHE_PATIENCE)
    except subprocess.TimeoutExpired:
        # `uv run` holds the cache for as long as its program lives, which may be days, though it needs none of these files
        console.warn("another uv is using the cache; the damaged packages are dropped from it all the same")
        _run([*command, "--force"])


def _run(arguments: list[str], stdin: str = "", patience: float | None = None) -> str:
    """Run uv; returns its standard output, raises what its message means, or TimeoutExpired after `patience` seconds."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    done = subprocess.run(
        [uv(), "--no-progress", "--color", "never", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience,
        cwd="/",  # no uv.toml or pyproject.toml of the folder the user happens to stand in
        env={**kept, "UV_NO_PROJECT": "1", "VIRTUAL_ENV": ""},
    )
    if done.returncode:
        raise _explained(done.stderr)
    return done.stdout


def _explained(message: str) -> Exception:
    """The error class that fits what uv said, with uv's words."""
    text = message.strip()
    if "Hash mismatch" in text:
        package = re.search(r"Hash mismatch for `([^`]+)`", text)
        wanted = re.findall(r"sha256:[0-9a-f]{64}", text.partition("Computed:")[0])
        got = re.findall(r"sha256:[0-9a-f]{64}", text.partition("Computed:")[2])
        return IntegrityError.of(
            package.group(1) if package else "an artefact",
            " or ".join(wanted),
            " ".join(got) or "unknown",
            "the index or mirror serves other bytes than were locked; nothing was installed from it",
        )
    if "os error 28" in text or "os error 122" in text:  # ENOSPC, EDQUOT
        return DiskTooSmall(
            f"the disk is full; uv says\n  {text.splitlines()[-1].strip()}",
            "free some space and run again: what was finished is kept",
        )
    host = _URL_HOST.search(text)
    if refused := _REFUSED.search(text):
        return NetworkError(
            f"{host.group(1) if host else 'a package index'} answers {refused[1]}\n  {text}",
            "the index or mirror lacks a locked file, or wants a login (UV_DEFAULT_INDEX names another index)",
        )
    if _DNS_OR_CONNECT.search(text):
        return NetworkError(
            f"{host.group(1) if host else 'a package index'} does not answer",
            "check the network or proxy, or name a mirror (UV_DEFAULT_INDEX); what was downloaded so far is kept",
        )
    return InstallError(f"uv could not install the locked packages\n  {text}", "the message above is uv's own")
