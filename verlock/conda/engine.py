"""py-rattler, in a child process of `verlock.conda.client`: one JSON object in, one out.

It flushes its answer and exits by `os._exit`, since the interpreter can die by a signal at exit after all work succeeded
(https://github.com/PyO3/pyo3-async-runtimes/issues/40).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from verlock import paths
from verlock.conda import places
from verlock.conda.client import split_url
from verlock.conda.places import local_path
from verlock.errors import InstallError, IntegrityError, NetworkError, ResolutionError, VerlockError
from verlock.system import addresses, files, loopback
from verlock.variant import lockfiles

RETRIES = 3


def _config() -> Any:
    """rattler's own configuration: certificates, proxies, file of credentials, mirrors."""
    from rattler import Config

    return Config.load_from_default_locations("verlock")


def _places(job: dict[str, Any]) -> places.Places:
    """The places of all channels that a lock names."""
    from rattler.networking import Client

    config = _config()
    listed = [(split_url(item["url"]), item["sha256"]) for item in lockfiles.conda_packages(Path(job["lock"]))]
    table = {base: [*job["mirrors"], *(config.mirrors.get(base) or [base])] for (base, _, _), _ in listed}
    if paths.offline():
        table = {base: [each for each in asked if local_path(each) is not None] for base, asked in table.items()}
    config.unset("mirrors")  # else rattler would go to them in place of the channel, and stop at the first
    drafts = Path(job["cache"]) if job["cache"] else None
    if drafts:
        drafts.mkdir(parents=True, exist_ok=True)
    client = Client.from_config(config, max_retries=0)
    return places.Places(client, table, {(base, tail): sha256 for (base, _, tail), sha256 in listed}, drafts)


@contextlib.contextmanager
def _relayed(source: places.Places) -> Iterator[Any]:
    """A client for rattler whose requests all come to `source`, by way of a server on the loopback."""
    from rattler.networking import Client, MirrorMiddleware

    channels = [channel for channel in source.table if channel.startswith("http")]

    class Relay(loopback.Handler):
        def do_GET(self) -> None:
            _, number, tail = self.path.split("/", 2)
            try:
                file = source.get(channels[int(number)], unquote(tail))
            except VerlockError:
                return self.answer(404)  # not tried again; the reason is in source.errors
            with file:
                self.send_response(200)
                self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                self.end_headers()
                shutil.copyfileobj(file, self.wfile)
            return None

    with loopback.serve(Relay) as own:
        table = {channel: [f"{own}/{number}"] for number, channel in enumerate(channels)}
        yield Client([MirrorMiddleware(table)] if table else [])


@contextlib.contextmanager
def _solving(channels: Sequence[str], mirrors: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """rattler's configuration with the mirrors before each channel, and a client made of it, for a channel's lists of packages.

    Folders are served on the loopback. A file that no folder has is redirected to the channel, since rattler goes on to the next
    mirror when one is dead, but not when it has no such file.
    """
    from rattler.networking import Client

    remote = [channel for channel in channels if channel.startswith("http")]
    folders = [folder for mirror in mirrors if (folder := local_path(mirror)) is not None]

    class Folders(loopback.Handler):
        def do_GET(self) -> None:
            _, number, tail = self.path.split("/", 2)
            found = next((path for folder in folders if (path := folder / tail).is_file()), None)
            if found is None:
                self.answer(307, Location=f"{remote[int(number)]}/{tail}")
            else:
                self.answer(200, found.read_bytes())

        do_HEAD = do_GET

    config = _config()
    with loopback.serve(Folders) if folders else contextlib.nullcontext() as own:
        urls = [mirror.rstrip("/") for mirror in mirrors if local_path(mirror) is None]
        table = dict(config.mirrors)
        for number, channel in enumerate(remote if mirrors else ()):
            table[channel] = [*([f"{own}/{number}"] if own else []), *urls, *(table.get(channel) or [channel])]
        config.set("mirrors", json.dumps(table))
        yield config, Client.from_config(config, max_retries=RETRIES)


def _locked_records(lock: Path) -> list[Any]:
    from rattler import LockFile

    environment = LockFile.from_path(lock).default_environment()
    records = environment.conda_repodata_records() if environment else {}
    return list(records.get("linux-64", []))


def _install(job: dict[str, Any]) -> dict[str, Any]:
    from rattler import install as rattler_install

    lock, prefix = Path(job["lock"]), Path(job["prefix"])
    for item in lockfiles.conda_packages(lock):
        if (path := local_path(item["url"])) is not None:
            _check_file(path, item["sha256"])
    source = _places(job)
    with _relayed(source) as client:
        try:
            asyncio.run(
                rattler_install(
                    _locked_records(lock),
                    target_prefix=prefix,
                    package_cache=_package_cache(job["cache"]),
                    client=client,
                    reinstall_packages=_damaged(prefix),
                    show_progress=False,
                    execute_link_scripts=False,
                )
            )
        except Exception:
            if source.errors:  # what rattler says of it is only that the loopback has no such file
                raise source.errors[0] from None
            raise
    return {"notes": source.notes}


def _package_cache(folder: str) -> Any:
    from rattler.package_cache import PackageCache, ValidationMode

    return PackageCache.new_layered([Path(folder)], validation_mode=ValidationMode.full())


def _ask(job: dict[str, Any]) -> None:
    """Raise NetworkError where an install is bound to fail; nobody is asked where all packages are in the cache."""
    lock = Path(job["lock"])
    listed = lockfiles.conda_packages(lock)
    if not listed:
        return
    if job["cache"] and Path(job["cache"]).is_dir():

        async def all_there() -> bool:
            index = await _package_cache(job["cache"]).index()
            return all(index.contains_record(record) for record in _locked_records(lock))

        if asyncio.run(all_there()):
            return
    base, _, tail = split_url(listed[0]["url"])
    _places(job).ask(base, tail)


def _fetch(job: dict[str, Any]) -> dict[str, str]:
    source, found = _places(job), {}
    for item in lockfiles.conda_packages(Path(job["lock"])):
        base, _, tail = split_url(item["url"])
        path = Path(job["folder"]) / item["sha256"] / tail.rpartition("/")[2]
        if files.sha256_if_there(path) != item["sha256"]:
            with source.get(base, tail) as file:
                files.write_whole(path, file.read())
        found[tail] = str(path)
    return found


def _convert(job: dict[str, Any]) -> None:
    from rattler import LockFile

    LockFile.from_path(Path(job["lock"])).to_path(Path(job["output"]))


def _check_file(path: Path, wanted: str) -> None:
    if not path.is_file():
        raise NetworkError(f"{path} is not there", "is the local channel of this lock still in its place?")
    if (got := files.sha256(path)) != wanted:
        raise IntegrityError.of(str(path), wanted, got, "the package was replaced or damaged")


def _damaged(prefix: Path) -> set[str]:
    """The installed packages with a missing or changed file; rattler itself trusts conda-meta."""
    damaged: set[str] = set()
    for meta in (prefix / "conda-meta").glob("*.json"):
        try:
            record = json.loads(meta.read_text(encoding="utf-8"))
            installed = record["paths_data"]["paths"]
        except (ValueError, KeyError):
            meta.unlink()  # a half-written record: the package counts as not installed
            continue
        if not all(_intact(prefix, item) for item in installed):
            damaged.add(record["name"])
    return damaged


def _intact(prefix: Path, item: dict[str, Any]) -> bool:
    path = Path(prefix, item["_path"])
    if path.is_symlink():
        return bool(item.get("path_type") == "softlink")
    wanted: str | None = item.get("sha256_in_prefix") or item.get("sha256")
    if path.suffix == ".pyc" or item.get("path_type") != "hardlink" or not wanted:
        return path.exists()
    return files.sha256_if_there(path) == wanted


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
    cutoff = datetime.fromisoformat(f"{job['cutoff']}T00:00:00+00:00") if job["cutoff"] else None
    if cutoff:
        cutoff -= timedelta(milliseconds=1)  # rattler takes what was built at exactly that time, the pip layer does not
    with _solving(channels, job["mirrors"]) as (config, client):
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
        gateway = Gateway.from_config(config, cache_dir=Path(job["cache"]), client=client)
        if cutoff and not job["locked_only"]:
            preferred = asyncio.run(_dated(preferred, sources, gateway))
        records = asyncio.run(
            rattler_solve(
                sources=sources,
                specs=[MatchSpec(spec, strict=False) for spec in job["specs"]],
                platforms=[Subdir("linux-64"), Subdir("noarch")],
                gateway=gateway,
                locked_packages=preferred,
                virtual_packages=virtual,
                exclude_newer=None if job["locked_only"] else cutoff,
            )
        )
    plain = []
    for record in records:
        item = json.loads(record.to_json())
        item["url"] = str(record.url)
        item["fn"] = record.file_name
        plain.append(item)
    return sorted(plain, key=lambda item: str(item["name"]))


async def _dated(locked: Sequence[Any], sources: Sequence[Any], gateway: Any) -> list[Any]:
    """The same packages as the sources list them: a lock does not say when its packages were built, and a cut-off needs that."""
    from rattler import SparseRepoData, Subdir

    listed: list[Any] = []
    names = [record.name.normalized for record in locked]
    for source in sources:
        if isinstance(source, SparseRepoData):
            listed += [record for name in names for record in source.load_records(name)]
    channels = [source for source in sources if not isinstance(source, SparseRepoData)]
    if channels and names:
        found = await gateway.query(channels, [Subdir("linux-64"), Subdir("noarch")], names, recursive=False)
        listed += [record for records in found for record in records]
    dated = {(record.subdir, record.file_name): record for record in reversed(listed)}
    return [dated.get((record.subdir, record.file_name), record) for record in locked]


def _repodata_of(records: Sequence[Any], channel: Any, subdir: str) -> Any:
    """A channel's subdir that holds only these records."""
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
    text = addresses.scrubbed(" ".join(str(error).split()))
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
            places.REMEDY,
        )
    if action == "solve" and type(error).__name__ in ("SolverError", "InvalidMatchSpecError"):
        return ResolutionError(
            f"the conda layer cannot be solved: {addresses.scrubbed(str(error).strip())}",
            "loosen a line of environments/*/environment.yml",
        )
    return InstallError(
        f"the conda engine failed ({type(error).__name__}): {text[:600]}", "run it again; finished parts are kept"
    )


def _main(action: str) -> None:
    answer: dict[str, Any]
    try:
        job = json.loads(sys.stdin.read())
        answer = {
            "result": {"install": _install, "ask": _ask, "fetch": _fetch, "solve": _solve, "convert": _convert}[action](
                job
            )
        }
    except BaseException as error:  # a panic in rattler is a BaseException
        translated = _translate(action, error)
        answer = {"error": type(translated).__name__, "problem": translated.problem, "remedy": translated.remedy}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(1 if "error" in answer else 0)


if __name__ == "__main__":
    _main(sys.argv[1])
