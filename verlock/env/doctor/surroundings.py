"""Checks of what surrounds an environment: the shell's variables, the user's own packages, proxies, and what can be reached."""

from __future__ import annotations

import fnmatch
import os
import re
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from verlock.conda import client
from verlock.conda.places import local_path
from verlock.env import installed
from verlock.env.doctor.findings import OK, WARNING, Check, Finding, Subject, fine
from verlock.system import addresses, download, package_index, process
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen

PATIENCE = 1.0  # seconds for each host, all at the same time

_INSIDE = "`unset {name}`, or start through `nox -s run` or `verlock-run`, which leave it out"
_UNSET = "`unset {name}`"


@dataclass(frozen=True)
class Variable:
    """A variable that breaks things: a pattern of its name, of its value, why, and what to do."""

    name: str
    why: str
    remedy: str = _INSIDE
    value: str = "*"


# The first one that fits a variable counts.
VARIABLES = (
    Variable(
        "PYTORCH_CUDA_ALLOC_CONF",
        "with sleep mode vLLM then gives no memory back, or refuses (https://github.com/vllm-project/vllm/pull/11743)",
        value="*expandable_segments:true*",
    ),
    Variable(
        "VLLM_*PRECOMPILED*",
        "a vLLM that you build takes that wheel's compiled objects, whatever they were made from; nothing checks it "
        "(https://github.com/vllm-project/vllm/issues/13047)",
        _UNSET + "; verlock names its precompiled wheel by hash in the recipe",
    ),
    Variable("VLLM_TARGET_DEVICE", "a vLLM that is built with it has no CUDA", _UNSET, value="cpu"),
    Variable("VLLM_*", "it changes the engine that was locked and proven"),
    Variable(
        "RAY_ADDRESS",
        "ray.init() joins the cluster that it names, with that one's Ray and Python "
        "(https://github.com/vllm-project/vllm/issues/13490)",
    ),
    *(
        Variable(
            name,
            "installs of yours then build from source, a CPU build of vLLM or torch among them "
            "(https://github.com/vllm-project/vllm/issues/12525)",
            _UNSET + "; verlock itself installs wheels alone",
        )
        for name in ("PIP_NO_BINARY", "UV_NO_BINARY", "UV_NO_BINARY_PACKAGE")
    ),
    Variable("UV_TORCH_BACKEND", "installs of yours may take a torch without CUDA", _UNSET, value="cpu"),
    Variable("PYTHONPATH", "Python imports packages from there before the environment's own"),
    Variable("PYTHONHOME", "Python takes another one's standard library"),
    Variable("PYTHONSTARTUP", "an interactive Python runs that file"),
    Variable("LD_PRELOAD", "its libraries come before those in the wheels"),
)

# Libraries that the wheels bring themselves; one of a module's in LD_LIBRARY_PATH is taken in their place.
_LIBRARIES = (
    "libcudart.so*",
    "libcublas.so*",
    "libcudnn.so*",
    "libnccl.so*",
    "libnvrtc.so*",
    "libtorch*.so*",
    "libstdc++.so*",
)


def variables(subject: Subject) -> Iterable[Finding]:
    """Variables of this shell that change or break what runs in an environment."""
    recipes = {
        item for chosen in subject.chosen for item in chosen.recipe.vllm.environment.items()
    }  # an activated shell's
    found = [
        Finding(WARNING, f"{name} is set: {each.why}", each.remedy.format(name=name))
        for name, value in sorted(os.environ.items())
        if value and (name, value) not in recipes and (each := _known(name, value))
    ]
    return found or fine("none of those that break things is set")


def _known(name: str, value: str) -> Variable | None:
    for each in VARIABLES:
        if fnmatch.fnmatchcase(name.upper(), each.name) and fnmatch.fnmatchcase(
            value.replace(" ", "").lower(), each.value
        ):
            return each
    return None


def libraries(subject: Subject) -> Iterable[Finding]:
    """Libraries of CUDA and the like that LD_LIBRARY_PATH puts before those in the wheels, as a cluster's modules do."""
    for folder in dict.fromkeys(filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))):
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 (a folder of thousands of libraries)
        except OSError:
            continue
        if there := [name for name in names if any(fnmatch.fnmatchcase(name, each) for each in _LIBRARIES)]:
            yield Finding(
                WARNING,
                f"LD_LIBRARY_PATH has {folder}, and with it {', '.join(there[:4])}: taken in the place of those in the wheels",
                "`module unload` what set it, or `unset LD_LIBRARY_PATH`, before you train",
            )
    yield Finding(OK, "LD_LIBRARY_PATH " + ("is set" if os.environ.get("LD_LIBRARY_PATH") else "is not set"))


def user_site(subject: Subject) -> Iterable[Finding]:
    """Packages of ~/.local that an activated environment imports before or beside its own."""
    if os.environ.get("PYTHONNOUSERSITE"):
        return fine("kept out by PYTHONNOUSERSITE")
    base = Path(os.environ.get("PYTHONUSERBASE") or Path.home() / ".local")
    found = []
    for python in sorted({chosen.python for chosen in subject.chosen}):
        site = base / "lib" / f"python{python}" / "site-packages"
        locked = {pin.name for chosen in subject.chosen if chosen.python == python for pin in chosen.pins}
        if own := sorted(installed.packages(site).keys() & locked):
            more = f" and {len(own) - 4} more" if len(own) > 4 else ""
            found.append(
                Finding(
                    WARNING,
                    f"{site} has {', '.join(own[:4])}{more}: imported in the place of what is locked",
                    "`export PYTHONNOUSERSITE=1`, or start through `nox -s run` or `verlock-run`, which set it",
                )
            )
    return found or fine("nothing there that a lock names")


def proxies(subject: Subject) -> Iterable[Finding]:
    """The proxies in force."""
    named = {name: value for name, value in sorted(os.environ.items()) if value and process.proxied([name])}
    return fine(", ".join(f"{name}={addresses.shown(value)}" for name, value in named.items()) or "none")


def reached(subject: Subject) -> Iterable[Finding]:
    """Whether channel, index, git host and release host answer, all asked at once."""
    asked = list(_hosts(subject))
    said: dict[str, str] = {}

    def look(url: str) -> None:
        said[url] = _why_not(url)

    threads = [threading.Thread(target=look, args=(url,), daemon=True) for _, url, _ in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for what, url, remedy in asked:
        why = said.get(url, f"no answer within {PATIENCE:.0f} s")
        host = addresses.host(url)
        yield Finding(WARNING, f"{what}: {host}: {why}", remedy) if why else Finding(OK, f"{what}: {host}")


def _hosts(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """What each host is for, an address on it, and what to do without it; each host once, the user's own place before."""
    yield (
        "index",
        package_index.upstream(),
        "name the index that you reach in UV_DEFAULT_INDEX; what is cached needs none",
    )
    seen = set()
    for chosen in subject.chosen:
        for host in _of_variant(chosen):
            if addresses.host(host[1]) not in seen:
                seen.add(addresses.host(host[1]))
                yield host


def _of_variant(chosen: Chosen) -> Iterator[tuple[str, str, str]]:
    mirrors = client.mirrors_from_environment()
    if not any(local_path(mirror) for mirror in mirrors):
        channel = _channel(chosen.locks / lockfiles.CONDA_LOCK)
        url = mirrors[0] if mirrors else channel
        if url:
            yield (
                "conda channel",
                url,
                "name a mirror in VERLOCK_CONDA_MIRROR; without one the host's CPython is the base",
            )
    if chosen.recipe.source and not os.environ.get("VERLOCK_SOURCE_MIRROR"):
        yield (
            "git host",
            chosen.recipe.source.url,
            "name a mirror in VERLOCK_SOURCE_MIRROR; a wheel that was built once needs none",
        )
    for artefact in chosen.recipe.artefact:
        file = artefact.file_for(chosen.recipe.torch, chosen.python)
        if file:
            users = download.users_places(file.url.rsplit("/", 1)[1])
            if not any(isinstance(place, Path) for place in users):
                url = next((str(place) for place in users), file.url)
                remedy = f"put the wheel of {artefact.package} into a folder, and name that folder in {download.PLACE}"
                yield "release host", url, remedy


def _channel(lock: Path) -> str:
    """The address of the first package of a conda-lock.yml, found without reading all of it."""
    match = re.search(r"^\s*url: (\S+://\S+\.(?:conda|tar\.bz2))$", lockfiles.text_of(lock), re.MULTILINE)
    return match[1] if match else ""


def _why_not(url: str) -> str:
    """Why a host gives no answer, whatever that answer says; empty where it does."""
    try:
        download.connect(url, PATIENCE)
        with download.session() as once:
            once.get(url, stream=True, timeout=PATIENCE, allow_redirects=False, headers={"Range": "bytes=0-0"}).close()
    except (OSError, ValueError) as error:
        return _reason(error)
    return ""


def _reason(error: BaseException) -> str:
    said = addresses.scrubbed(getattr(error, "strerror", None) or download.innermost_reason(error)).splitlines()[0]
    if isinstance(error, TimeoutError) or "timed out" in said.lower():
        return f"no answer within {PATIENCE:.0f} s"
    return "no host has this name, as the name server says" if isinstance(error, socket.gaierror) else said[:200]


CHECKS = (
    Check("variables", variables),
    Check("libraries", libraries),
    Check("user site", user_site),
    Check("proxies", proxies),
    Check("network", reached),
)
