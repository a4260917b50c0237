"""The conda layer: solve and install it with py-rattler, always in a child process.

The child is not a matter of taste: the interpreter can die by a signal at exit after all of rattler's work succeeded
(https://github.com/PyO3/pyo3-async-runtimes/issues/40), so it flushes its answer and leaves by `os._exit`. One JSON object
goes in by standard input, one comes out by standard output.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from verlock import errors, project
from verlock.errors import InstallError, IntegrityError, LockError, NetworkError, ResolutionError, VerlockError
from verlock.lock import read_yaml

RETRIES = 3
REACHABLE_SECONDS = 5.0


# what the other modules call -------------------------------------------------------------------------


def install(lock: Path, prefix: Path, cache: Path, *, mirrors: Sequence[str] = ()) -> None:
    """Make `prefix` hold exactly the packages of a conda-lock.yml; heals a partial or damaged prefix.

    Args:
        lock: the conda-lock.yml; only its linux-64 packages are looked at.
        prefix: the environment's folder, made when absent.
        cache: rattler's package cache; hardlinks go from it to the prefix, every file in it is hashed first.
        mirrors: URLs or folders asked before the channel, for every channel of the lock (`mirrors_from_environment`).

    Raises:
        LockError: a package has no sha256, or the file is not a conda-lock.yml.
        NetworkError: neither a mirror nor the channel answers; the host is named.
        IntegrityError: a downloaded package has another sha256.
        InstallError: anything else that rattler reports.
    """
    _in_child("install", lock=str(lock), prefix=str(prefix), cache=str(cache), mirrors=list(mirrors))


def solve(
    specs: Sequence[str],
    channels: Sequence[str],
    *,
    virtual: Sequence[tuple[str, str, str]],
    repodata: Path | None = None,
    locked: Path | None = None,
    locked_only: bool = False,
    upgrade: Sequence[str] = (),
    mirrors: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Solve conda specs for linux-64.

    Args:
        specs: match specs, such as `python 3.10.*`.
        channels: channel URLs, best first.
        virtual: name, version and build of each virtual package (`__glibc`, ...); none is taken from this machine.
        repodata: a folder with `linux-64/repodata.json` and `noarch/repodata.json` read in the place of the first channel's.
        locked: a conda-lock.yml whose packages are preferred.
        locked_only: there is nothing but the packages of `locked`: confirm that they satisfy the specs, without a network.
        upgrade: names of packages not to prefer from `locked`; `*` for all.
        mirrors: as for `install`.

    Returns:
        The repodata record of each chosen package, with its `url`, sorted by name.

    Raises:
        ResolutionError: the specs contradict each other, or name what the channels lack.
        NetworkError: no channel answers.
    """
    records: list[dict[str, Any]] = _in_child(
        "solve",
        specs=list(specs),
        channels=list(channels),
        virtual=[list(item) for item in virtual],
        repodata=str(repodata) if repodata else None,
        locked=str(locked) if locked else None,
        locked_only=locked_only,
        upgrade=list(upgrade),
        mirrors=list(mirrors),
    )
    return records


def reachable(lock: Path, mirrors: Sequence[str] = ()) -> bool:
    """Whether the first package of a conda-lock.yml can be had from a mirror or its channel; takes 5 seconds at most."""
    package = next(iter(packages(lock)), None)
    if package is None:
        return True
    base, _, tail = _split_url(package["url"])
    candidates = [f"{mirror.rstrip('/')}/{tail}" for mirror in mirrors] + [f"{base}/{tail}"]
    pool = ThreadPoolExecutor(max_workers=len(candidates))
    try:
        checks = [pool.submit(_answers, url) for url in candidates]
        return any(check.result() for check in as_completed(checks, timeout=REACHABLE_SECONDS))
    except TimeoutError:
        return False
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def mirrors_from_environment() -> list[str]:
    """The conda mirrors of `VERLOCK_CONDA_MIRROR`: URLs or folders, separated by commas."""
    return [item.strip() for item in os.environ.get("VERLOCK_CONDA_MIRROR", "").split(",") if item.strip()]


def packages(lock: Path) -> list[dict[str, Any]]:
    """The linux-64 packages of a conda-lock.yml, in its order: `name`, `version`, `url`, `sha256` and `python` (is it one's?).

    Raises:
        LockError: the file is missing, is not conda-lock's, or has a package without sha256.
    """
    try:
        content = read_yaml(lock.read_text(encoding="utf-8"))
        found = [item for item in content["package"] if item["platform"] == "linux-64"]
        listed = [
            {
                "name": item["name"],
                "version": item["version"],
                "url": item["url"],
                "sha256": item["hash"].get("sha256"),
                "python": bool({"python", "python_abi"} & set(item["dependencies"])),
            }
            for item in found
        ]
    except FileNotFoundError:
        raise LockError(f"{lock} is missing", "make it with `nox -s lock`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(f"{lock} is not a conda-lock.yml: {error!r}", "make it again with `nox -s lock`") from None
    for item in listed:
        if not re.fullmatch(r"[0-9a-f]{64}", item["sha256"] or ""):
            raise LockError(
                f"{lock}: {item['name']} {item['version']} has no sha256", "make it again with `nox -s lock`"
            )
    return listed


def askers(lock: Path, name: str) -> list[tuple[str, str, str]]:
    """Who depends on a package of a conda-lock.yml: name, version and bound of each."""
    content = read_yaml(lock.read_text(encoding="utf-8"))
    return [
        (item["name"], item["version"], str(item["dependencies"][name]))
        for item in content["package"]
        if name in item["dependencies"]
    ]


# parent ----------------------------------------------------------------------------------------------


def _in_child(action: str, **job: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(project.ROOT), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "verlock.conda", action],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()[-1:] or [f"it left with {done.returncode} and said nothing"]
        raise InstallError(f"the conda engine died: {said[0]}", "run it again; a finished part is kept") from None
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["problem"], answer["remedy"])
    return answer["result"]


def _split_url(url: str) -> tuple[str, str, str]:
    """`https://host/channel`, the host, and `linux-64/name-1.0-0.conda`."""
    base, subdir, name = url.rsplit("/", 2)
    return base, urlsplit(url).netloc or "this machine", f"{subdir}/{name}"


def _answers(url: str) -> bool:
    if (path := _local(url)) is not None:
        return path.is_file()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACHABLE_SECONDS) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def _local(url: str) -> Path | None:
    """The path of a `file://` URL or of a plain path, else None."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(url) if not parts.scheme else None


# child -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _client(channels: Sequence[str], mirrors: Sequence[str]) -> Iterator[Any]:
    """An http client that asks the mirrors before each channel.

    Folders get a server on the loopback, since rattler checks the hash of http packages only; what they lack is redirected to the
    channel, since rattler goes on to the next mirror when one is dead, not when it has no such file.
    """
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from rattler.networking import Client, MirrorMiddleware, RetryMiddleware

    remote = [channel for channel in channels if channel.startswith("http")]
    folders = [folder for mirror in mirrors if (folder := _local(mirror)) is not None]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, number, tail = self.path.split("/", 2)
            found = next((path for folder in folders if (path := folder / tail).is_file()), None)
            if found is None:
                self.send_response(307)
                self.send_header("Location", f"{remote[int(number)]}/{tail}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(found.stat().st_size))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(found.read_bytes())

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler) if folders else None
    if server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    table: dict[str, list[str]] = {}
    for number, channel in enumerate(remote):
        places = [mirror.rstrip("/") for mirror in mirrors if _local(mirror) is None]
        if server:
            places.insert(0, f"http://127.0.0.1:{server.server_port}/{number}")
        table[channel] = [*places, channel]
    try:
        yield Client([RetryMiddleware(RETRIES), *([MirrorMiddleware(table)] if mirrors and table else [])])
    finally:
        if server:
            server.shutdown()


def _locked_records(lock: Path) -> list[Any]:
    from rattler import LockFile

    environment = LockFile.from_path(lock).default_environment()
    records = environment.conda_repodata_records() if environment else {}
    return list(records.get("linux-64", []))


def _install(job: dict[str, Any]) -> None:
    from rattler import install as rattler_install
    from rattler.package_cache import PackageCache, ValidationMode

    lock, prefix = Path(job["lock"]), Path(job["prefix"])
    listed = packages(lock)
    for item in listed:
        if (path := _local(item["url"])) is not None:
            _check_file(path, item["sha256"])
    records = _locked_records(lock)
    channels = sorted({_split_url(item["url"])[0] for item in listed})
    cache = PackageCache.new_layered([Path(job["cache"])], validation_mode=ValidationMode.full())
    with _client(channels, job["mirrors"]) as client:
        asyncio.run(
            rattler_install(
                records,
                target_prefix=prefix,
                package_cache=cache,
                client=client,
                reinstall_packages=_damaged(prefix),
                show_progress=False,
                execute_link_scripts=False,
            )
        )


def _check_file(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise NetworkError(f"{path} is not there", "is the local channel of this lock still in its place?")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != wanted:
        raise IntegrityError.of(str(path), wanted, digest.hexdigest(), "the package was replaced or damaged")


def _damaged(prefix: Path) -> set[str]:
    """The installed packages of which a file is missing or has other bytes: rattler itself trusts conda-meta."""
    damaged: set[str] = set()
    for meta in (prefix / "conda-meta").glob("*.json"):
        try:
            record = json.loads(meta.read_text(encoding="utf-8"))
            paths = record["paths_data"]["paths"]
        except (ValueError, KeyError):
            meta.unlink()  # a half-written record: as if it had never been installed
            continue
        if not all(_intact(prefix, item) for item in paths):
            damaged.add(record["name"])
    return damaged


def _intact(prefix: Path, item: dict[str, Any]) -> bool:
    path = Path(prefix, item["_path"])
    if path.is_symlink():
        return bool(item.get("path_type") == "softlink")
    wanted: str | None = item.get("sha256_in_prefix") or item.get("sha256")
    if path.suffix == ".pyc" or item.get("path_type") != "hardlink" or not wanted:
        return path.exists()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == wanted
    except OSError:
        return False


def _solve(job: dict[str, Any]) -> list[dict[str, Any]]:
    from rattler import (
        BuildString,
        Channel,
        Gateway,
        GenericVirtualPackage,
        MatchSpec,
        PackageName,
        SparseRepoData,
        Subdir,
        Version,
    )
    from rattler import solve as rattler_solve

    channels = [str(channel) for channel in job["channels"]]
    upgrade = set(job["upgrade"])
    preferred = _locked_records(Path(job["locked"])) if job["locked"] and "*" not in upgrade else []
    preferred = [record for record in preferred if record.name.normalized not in upgrade]
    virtual = [
        GenericVirtualPackage(PackageName(name), Version(version), BuildString(build or "0"))
        for name, version, build in job["virtual"]
    ]
    with _client(channels, job["mirrors"]) as client:
        sources: list[Any] = [Channel(url) for url in channels]
        if job["locked_only"]:
            sources = [_repodata_of(preferred, Channel(channels[0]), subdir) for subdir in ("linux-64", "noarch")]
        elif job["repodata"]:
            folder = Path(job["repodata"])
            found = [subdir for subdir in ("linux-64", "noarch") if (folder / subdir / "repodata.json").is_file()]
            if not found:
                raise NetworkError(
                    f"{folder} has no linux-64/repodata.json", "VERLOCK_CONDA_REPODATA names the folder above it"
                )
            first = Channel(channels[0])
            sparse = [SparseRepoData(first, subdir, folder / subdir / "repodata.json") for subdir in found]
            sources = [*sparse, *sources[1:]]
        records = asyncio.run(
            rattler_solve(
                sources=sources,
                specs=[MatchSpec(spec, strict=False) for spec in job["specs"]],
                platforms=[Subdir("linux-64"), Subdir("noarch")],
                gateway=Gateway(client=client),
                locked_packages=preferred,
                virtual_packages=virtual,
            )
        )
    plain = []
    for record in records:
        item = json.loads(record.to_json())
        item["url"] = str(record.url)
        item["fn"] = record.file_name
        plain.append(item)
    return sorted(plain, key=lambda item: str(item["name"]))


def _repodata_of(records: Sequence[Any], channel: Any, subdir: str) -> Any:
    """A channel's subdir that holds nothing but these records."""
    from rattler import SparseRepoData

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        listed = {record.file_name: json.loads(record.to_json()) for record in records if record.subdir == subdir}
        json.dump({"info": {"subdir": subdir}, "packages": {}, "packages.conda": listed, "repodata_version": 1}, file)
        file.flush()
        return SparseRepoData(channel, subdir, Path(file.name))


_UNREACHABLE = (
    "dns error",
    "error sending request",
    "connect error",
    "connection refused",
    "timed out",
    "could not resolve",
)
_CORRUPT = re.compile(
    r"hash mismatch|expected.{0,80}sha256|sha256.{0,80}(mismatch|expected)", re.IGNORECASE | re.DOTALL
)
_HASH = re.compile(r"\b[0-9a-f]{64}\b")


def _translate(action: str, error: BaseException) -> VerlockError:
    """One of our errors for whatever rattler raised; its own text is long, nested and names hosts by URL."""
    if isinstance(error, VerlockError):
        return error
    text = " ".join(str(error).split())
    lowered = text.lower()
    package = re.search(r"[\w.+-]+\.(?:conda|tar\.bz2)", text)
    if _CORRUPT.search(text):
        hashes = _HASH.findall(text)
        wanted, got = (hashes[0], hashes[1]) if len(hashes) > 1 else ("the lock's sha256", text)
        return IntegrityError.of(
            package[0] if package else "a conda package", wanted, got, "try another mirror; nothing of it was installed"
        )
    if (
        any(word in lowered for word in _UNREACHABLE)
        or "status client error" in lowered
        or "status server error" in lowered
    ):
        host = re.search(r"https?://([^/\s)]+)", text)
        name = host[1] if host else "the conda channel"
        return NetworkError(
            f"{name} does not answer: {text.rpartition('Caused by: ')[2][:200]}",
            "set VERLOCK_CONDA_MIRROR to a mirror (a URL or a folder), or use `--base host`",
        )
    if action == "solve" and type(error).__name__ in ("SolverError", "InvalidMatchSpecError"):
        return ResolutionError(
            f"the conda layer cannot be solved: {str(error).strip()}", "loosen a line of environments/*/environment.yml"
        )
    return InstallError(
        f"the conda engine failed ({type(error).__name__}): {text[:600]}", "run it again; a finished part is kept"
    )


def _main(action: str) -> None:
    answer: dict[str, Any]
    try:
        job = json.loads(sys.stdin.read())
        answer = {"result": {"install": _install, "solve": _solve}[action](job)}
    except BaseException as error:  # a panic in rattler is a BaseException
        translated = _translate(action, error)
        answer = {"error": type(translated).__name__, "problem": translated.problem, "remedy": translated.remedy}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(1 if "error" in answer else 0)


if __name__ == "__main__":
    _main(sys.argv[1])
