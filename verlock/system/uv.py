"""The pip layer: uv installs exactly the locked set, every file hashed, hardlinked from its cache."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verlock import console, paths
from verlock.errors import DiskTooSmall, InstallError, IntegrityError, NetworkError, VerlockError
from verlock.system import addresses, package_index, process
from verlock.system.beside import beside

_DNS_OR_CONNECT = re.compile(
    r"dns error|error sending request|Could not connect|Failed to fetch|timed out", re.IGNORECASE
)
_REFUSED = re.compile(
    r"HTTP status (?:client|server) error \(([^)]+)\)"
    r"|returned a (?P<hint>[45]\d\d [A-Z][A-Za-z ]+?) error"
    r"|valid authentication credentials \((?P<login>[^)]+)\)"
    r"|Missing `(?P<header>Content-Type)` header"
)
_CACHE_PATIENCE = 10.0  # seconds to wait for another uv to be done with the cache
_URL = re.compile(r"https?://[^/`\s)]+")
# what `uv pip check` says of each requirement that is not met, and how many there are
_UNMET = re.compile(r"The package `([^`]+)` requires `([^`]+)`, but `[^`]+` is installed")
_INCOMPATIBILITIES = re.compile(r"Found (\d+) incompatibilit")
_TLS = re.compile(r"invalid peer certificate|UnknownIssuer|certificate verify failed|tls handshake", re.IGNORECASE)


def uv() -> str:
    """The uv of verlock's own tools, else the one on PATH. Raises InstallError when there is none."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        raise InstallError(
            "uv is not installed beside verlock", "run verlock through nox, which installs its locked tools"
        )
    return found


@dataclass(frozen=True)
class PipLayer:
    """What the pip layer of an environment is made of: exactly this, no more and no fewer packages."""

    requirements: Path  # the lock; every line carries hashes, and uv refuses anything else
    build_requirements: Path  # hashed pins of what the build of an sdist may use
    sdists: tuple[str, ...] = ()  # packages that may be built from their locked sdist; all others must be wheels
    wheels: Mapping[str, tuple[Path, str]] = field(
        default_factory=dict
    )  # package -> file from outside the index, sha256


def sync(python: Path, layer: PipLayer, again: Iterable[str] = ()) -> None:
    """Make the packages beside the interpreter `python` exactly those of `layer`; install those of `again` once more.

    Raises:
        IntegrityError: an artefact has another sha256 than its lock.
        NetworkError: an index does not answer.
        InstallError: anything else uv refuses.
    """
    command = ["pip", "sync", "--python", str(python), "--require-hashes", "--only-binary", ":all:"]
    for name in layer.sdists:
        command += ["--no-binary", name]
    for name in sorted(again):
        command += ["--reinstall-package", name]
    command += ["--build-constraints", str(layer.build_requirements), str(layer.requirements)]
    lines = [
        f"{name} @ {file.as_uri()} --hash=sha256:{sha256}\n" for name, (file, sha256) in sorted(layer.wheels.items())
    ]
    if lines:
        command.append("-")  # a second requirements file, read from standard input
    cached_or_fetched(command, stdin="".join(lines))


def cached_or_fetched(arguments: list[str], stdin: str = "") -> None:
    """Run an installing uv command from the cache alone; where that lacks something from a bundle, if there is one; then with
    the index, unless this run is offline. Raises as `run`.

    With everything cached this needs no network, and is a second or two faster than asking an index about each of 180 packages;
    that the cache lacks something is known in a third of a second, before anything is installed.
    """
    places = [["--offline"]]
    if bundle := paths.bundle_dir():
        places.append(["--offline", "--no-index", "--find-links", str(bundle / "wheels")])
    if not paths.offline():
        places.append([])
    *others, last = places
    for each in others:
        try:
            run([*arguments, *each], stdin=stdin)
        except DiskTooSmall:
            raise
        except VerlockError:
            continue
        return
    try:
        run([*arguments, *last], stdin=stdin)
    except VerlockError as error:
        if not bundle:
            raise
        raise type(error)(
            error.problem, f"`nox -s bundle -- --verify {bundle}` says whether the bundle is whole"
        ) from None


def make_venv(interpreter: Path, prefix: Path, prompt: str) -> None:
    """A bare virtual environment at `prefix` on a host interpreter. Raises InstallError."""
    run(["venv", "--python", str(interpreter), "--prompt", prompt, "--allow-existing", str(prefix)])


def check(python: Path, aside: Collection[tuple[str, str]] = ()) -> None:
    """Are all requirements of all installed packages met, but for just those that are set aside?

    Args:
        python: the interpreter of the environment.
        aside: package (its normalised name) and requirement of each that must be unmet, such as ("verl", "numpy<2.0.0").

    Raises InstallError with the list when another one is unmet, or when one that is set aside is met.
    """
    said = ""
    try:
        run(["pip", "check", "--python", str(python)])
    except InstallError as error:
        if not aside:
            raise
        said = error.problem
    expected = {_edge(*each) for each in aside}
    unmet = [_edge(*each) for each in _UNMET.findall(said)]
    count = _INCOMPATIBILITIES.search(said)
    if set(unmet) != expected or len(unmet) != int(count[1] if count else 0):
        wanted = "; ".join(f"{name} {requirement}" for name, requirement in aside)
        raise InstallError(
            f"what is set aside, and nothing else, is to be unmet: {wanted}\n  {said or 'every requirement is met'}",
            "the [[override]]s of the recipe are not those of the lock: lock again, then make the environment again",
        )


def _edge(name: str, requirement: str) -> tuple[str, str, Any]:
    """Who asks for what within which bounds, however it is spelt; markers are left out, since uv's message has none."""
    from packaging.requirements import Requirement  # not for a run that finds nothing to do

    asked = Requirement(requirement)
    return name, asked.name.lower(), asked.specifier


def cache() -> Path:
    """The folder of uv's cache."""
    return Path(run(["cache", "dir"]).strip())


def store() -> Path:
    """The part of uv's cache with a folder per unpacked wheel, moved there when it is whole."""
    return cache() / "archive-v0"


@contextmanager
def counting(place: Path, tell: Callable[[int], None]) -> Iterator[None]:
    """While this is open, `tell` how many packages have come into `place` (see `store`) since, whenever that grows."""

    def packages() -> int:
        with contextlib.suppress(OSError):
            return sum(1 for _ in place.iterdir())
        return 0

    before, said = packages(), 0

    def look(over: threading.Event) -> None:
        nonlocal said
        while True:
            last = over.wait(0.5)
            if (now := packages() - before) > said:
                said = now
                tell(now)
            if last:
                return

    with beside(look):
        yield


def cached(layer: PipLayer, python: str) -> bool:
    """Is every file of a layer's lock in uv's cache already, so that an install downloads nothing? Takes half a second."""
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--python-version", python]
    for name in layer.sdists:
        options += ["--no-binary", name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            target = ["--target", folder, "-r", str(layer.requirements)]
            run(["pip", "install", "--offline", "--dry-run", *options, *target])
        except VerlockError:
            return False
    return True


def archives(packages: Mapping[str, str]) -> dict[str, list[Path]]:
    """The folders in uv's cache that hold these unpacked wheels (package -> the name of its dist-info folder)."""
    found: dict[str, list[Path]] = {name: [] for name in packages}
    for wheel in store().glob("*"):
        for name, dist_info in packages.items():
            if (wheel / dist_info).is_dir():
                found[name].append(wheel)
    return found


def forget(packages: Iterable[str]) -> None:
    """Drop packages from uv's cache, where an edit of a hardlinked file spoils every later install."""
    command = ["cache", "clean", *sorted(packages)]
    try:
        run(command, patience=_CACHE_PATIENCE)
    except subprocess.TimeoutExpired:
        # `uv run` holds the cache for as long as its program lives, which may be days, though it needs none of these files
        console.warn("another uv is using the cache; the damaged packages are dropped from it all the same")
        run([*command, "--force"])


def run(arguments: list[str], stdin: str = "", patience: float | None = None) -> str:
    """Run uv; returns its standard output, raises what its message means, or TimeoutExpired after `patience` seconds."""
    done = subprocess.run(
        process.bound([uv(), "--no-progress", "--color", "never", *arguments]),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=patience,
        cwd="/",  # no uv.toml or pyproject.toml of the folder the user happens to stand in
        env=process.UV.environment(**package_index.for_uv()),
    )
    if done.returncode:
        raise _explained(done.stderr)
    return done.stdout


def _refusal(found: re.Match[str]) -> str:
    return "without saying what it sends" if found["header"] else found[1] or found["hint"] or found["login"]


def _explained(message: str) -> Exception:
    """The error class that fits what uv said, with uv's words."""
    text = addresses.scrubbed(message.strip())
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
    found = _URL.search(text)
    host = addresses.host(found[0]) if found else "a package index"
    if refused := _REFUSED.search(text):
        return NetworkError(
            f"{host} answers {_refusal(refused)}\n  {text}",
            "the index or mirror does not have a locked file, or wants a login (UV_DEFAULT_INDEX names another index; a name and "
            "password go into its URL or into ~/.netrc)",
        )
    if _TLS.search(text):
        return NetworkError(
            f"the certificate of {host} is not trusted\n  {text}",
            "name the file with your organisation's certificates in SSL_CERT_FILE, or set UV_SYSTEM_CERTS=1",
        )
    if _DNS_OR_CONNECT.search(text):
        return NetworkError(
            f"{host} does not answer\n  {text}",
            "check the network or proxy, or name a mirror (UV_DEFAULT_INDEX); what was downloaded so far is kept",
        )
    return InstallError(f"uv could not install the locked packages\n  {text}", "the message above is uv's own")
