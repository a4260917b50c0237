"""The two resolvers of the pip layer, and conda-lock: how each is called so that this machine leaves no trace in a lock.

uv proposes; pip-compile, which is pip's own resolver on the variant's Python, must find the same pins. Both get a clean
environment: no pip.conf, of the user's PIP_* and UV_* only how to reach an index (certificates, proxies), one locale, UTC.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from verlock import paths
from verlock.errors import (
    NetworkError,
    ResolutionError,
    ResolverDisagreement,
    ToolMissing,
    VerlockError,
)
from verlock.locking import wheel_tags
from verlock.locking.loopback_index import Index
from verlock.system import addresses, host_python, process, uv
from verlock.variant import lockfiles
from verlock.variant.lockfiles import Pin

if TYPE_CHECKING:
    from verlock.variant.recipe import Override

TOOLS = paths.LOCKS / lockfiles.TOOLS / f"{lockfiles.BASE_TOOLS}.txt"

_NETWORK = re.compile(
    r"dns error|error sending request|could not connect|failed to fetch|timed out|502 ", re.IGNORECASE
)
# uv says the one where there is an sdist, the other where there is none
_NO_WHEEL = re.compile(
    r"([A-Za-z0-9][\w.-]*?)([<>=!~]\S*)? ha(?:s|ve) no (?:usable wheels|wheels with a matching platform tag)"
)


@dataclass(frozen=True)
class Target:
    """What a pip layer is resolved for; `prereleases` are the packages that may be a pre-release, None for all."""

    python: str
    glibc: str
    cutoff: date | None
    sdists: tuple[str, ...] = ()
    prereleases: tuple[str, ...] | None = ()


@dataclass(frozen=True)
class Question:
    """One resolution, given to both resolvers.

    work: the folder that the following are relative to, since `# via` lines show such paths.
    source: the .in file.
    output: where the resolver writes; pins that are there already are preferred.
    target: Python, platform and cut-off.
    constraint: a requirements.txt that fixes versions, but requires no package.
    overrides: requirements of packages that are set aside.
    """

    work: Path
    source: str
    output: str
    target: Target
    constraint: str = ""
    overrides: tuple[Override, ...] = ()


def environment(**extra: str) -> dict[str, str]:
    """The environment of every resolver: of the user's configuration only how to reach an index."""
    return process.RESOLVER.environment(**addresses.certificates(), **extra)


def interpreter(python: str) -> Path:
    """A CPython of this minor version with pip-tools and the pip of verlock's tools lock, made once and kept in the cache.

    Raises:
        ToolMissing: this machine has no such CPython.
    """
    mark = hashlib.sha256(TOOLS.read_bytes()).hexdigest()[:16]
    folder = paths.cache_dir() / "resolvers" / f"{python}-{mark}"
    executable = folder / "bin" / "python"
    if (folder / "complete").exists() and executable.exists():
        return executable
    host = host_python.find(python)
    if host is None:
        raise ToolMissing(
            f"pip's resolver has to run on CPython {python}, and this machine has none",
            f"install one (`{shlex.join([uv.uv(), 'python', 'install', python])}` does), then lock again",
        )
    uv.make_venv(host.executable, folder, "verlock-resolver")
    uv.sync(executable, uv.PipLayer(TOOLS, TOOLS))
    (folder / "complete").touch()
    return executable


def propose(question: Question, index: Index, *, upgrade: Sequence[str] | None) -> list[Pin]:
    """Resolve with uv.

    Args:
        question: what to resolve.
        index: without overrides only its upstream address is used: uv reads upload times and metadata by itself.
        upgrade: None to prefer the existing pins, names to let those move, an empty sequence to let all move.

    Raises:
        ResolutionError: no set of packages fits, in uv's words.
        NetworkError: the index does not answer.
        ToolMissing: as `interpreter`, which builds an sdist's metadata.
    """
    target = question.target
    command = [uv.uv(), "pip", "compile", question.source, "--output-file", question.output]
    command += [
        "--python",
        str(interpreter(target.python)),
        "--python-version",
        target.python,
        "--python-platform",
        f"x86_64-manylinux_{target.glibc.replace('.', '_')}",
    ]
    if target.cutoff:
        command += ["--exclude-newer", f"{target.cutoff.isoformat()}T00:00:00Z"]
    command += ["--only-binary", ":all:", *(word for name in target.sdists for word in ("--no-binary", name))]
    command += ["--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    if upgrade is not None:
        command += [word for name in upgrade for word in ("--upgrade-package", name)] or ["--upgrade"]
    if question.constraint:
        command += ["--constraint", question.constraint]
    source = index.source
    if question.overrides:
        # of a view, whose address is another one each time, the user's cache shall keep nothing
        source = index.view(question.overrides)
        command += ["--cache-dir", str(question.work / ".uv")]
    complaint = f"uv finds no solution for {question.source}"
    try:
        _run(command, question.work, complaint, environment(UV_DEFAULT_INDEX=source))
    except ResolutionError as error:
        wheels = _wheels_there_are(error.problem, target, index)
        raise ResolutionError("\n  ".join([error.problem, *wheels]), error.remedy) from None
    return lockfiles.pins(question.work / question.output)


def _wheels_there_are(said: str, target: Target, index: Index) -> list[str]:
    """Of each package that has no usable wheel, as uv says, the glibc for which there would be one; uv does not look."""
    found: dict[str, None] = {}
    for name, bound in _NO_WHEEL.findall(said):
        bounds = SpecifierSet(bound)
        files = [
            file.filename
            for file in index.files(lockfiles.normalise(name))
            if file.filename.endswith(".whl")
            and bounds.contains(parse_wheel_filename(file.filename)[1], prereleases=True)
        ]
        if needed := wheel_tags.oldest_glibc(files, target.python):
            line = f"{name}{bound} has wheels for glibc {needed} and newer; the recipe's [platform] says {target.glibc}"
            found[line] = None
    return list(found)


def propose_universal(work: Path, name: str, cutoff: str, index: Index, *, upgrade: Sequence[str] | None) -> str:
    """Resolve one set of verlock's own tools for CPython 3.10 and newer on any platform; returns its lock without a header.

    The pins of the current lock are preferred; its hashes are left out. Other sets keep to the pins of the base set, whose lock
    is in `work` by then. Raises as `propose`.
    """
    source = f"environments/{lockfiles.TOOLS}/{name}.in"
    draft, base = (f"locks/{lockfiles.TOOLS}/{each}.txt" for each in (name, lockfiles.BASE_TOOLS))
    (work / draft).parent.mkdir(parents=True, exist_ok=True)
    current = paths.LOCKS / lockfiles.TOOLS / f"{name}.txt"
    if current.exists():
        text = re.sub(r" \\\n    --hash=\S+", "", current.read_text(encoding="utf-8"))
        (work / draft).write_text(text, encoding="utf-8")
    command = [uv.uv(), "pip", "compile", source, "--output-file", draft, "--universal"]
    command += ["--python-version", "3.10", "--only-binary", ":all:", "--exclude-newer", f"{cutoff}T00:00:00Z"]
    command += ["--generate-hashes", "--no-header", "--quiet"]
    command += ["--no-emit-index-url", "--no-emit-find-links"]
    if name != lockfiles.BASE_TOOLS:
        command += ["--constraint", base]
    if upgrade is not None:
        command += [word for name in upgrade for word in ("--upgrade-package", name)] or ["--upgrade"]
    _run(command, work, f"uv finds no solution for {source}", environment(UV_DEFAULT_INDEX=index.source))
    return (work / draft).read_text(encoding="utf-8")


def ratify(question: Question, index: Index, proposed: Sequence[Pin]) -> None:
    """Have pip-compile resolve the same on the variant's Python, starting from uv's pins.

    Raises:
        ResolverDisagreement: pip finds other pins; the packages are named with both versions.
        ResolutionError, NetworkError, ToolMissing: as for `propose`.
    """
    target, work = question.target, question.work
    (work / question.output).write_text("".join(f"{pin.name}=={pin.version}\n" for pin in proposed), encoding="utf-8")
    options = ["--only-binary", ":all:", *(word for name in target.sdists for word in ("--no-binary", name))]
    command = [str(interpreter(target.python)), "-m", "piptools", "compile", question.source]
    command += ["--output-file", question.output, "--no-config", "--quiet"]
    command += [
        "--index-url",
        index.view(question.overrides),
        "--pip-args",
        shlex.join(options),
        "--cache-dir",
        str(work / ".pip-tools"),
    ]
    if target.cutoff:
        command += ["--uploaded-prior-to", f"{target.cutoff.isoformat()}T00:00:00Z"]
    command += ["--allow-unsafe", "--strip-extras", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--no-emit-options", "--no-emit-trusted-host"]
    if question.constraint:
        command += ["--constraint", question.constraint]
    _run(command, work, f"pip finds no solution for {question.source}", environment())
    agree(question.source, proposed, lockfiles.pins(work / question.output, hashed=False))


def agree(source: str, proposed: Sequence[Pin], ratified: Sequence[Pin]) -> None:
    """Compare two resolutions pin for pin. Raises ResolverDisagreement, naming each package that differs."""
    uv = {pin.name: pin.version for pin in proposed}
    pip = {pin.name: pin.version for pin in ratified}
    differing = [name for name in sorted({*uv, *pip}) if uv.get(name) != pip.get(name)]
    if differing:
        lines = [
            f"{name}: uv {uv.get(name, 'leaves it out')}, pip {pip.get(name, 'leaves it out')}" for name in differing
        ]
        raise ResolverDisagreement(
            f"uv and pip resolve {source} differently:\n  " + "\n  ".join(lines),
            "bound these packages in the .in file, with the reason, so that only one answer is left",
        )


def admissible(pins: Sequence[Pin], target: Target, index: Index) -> list[Pin]:
    """The pins, with only the hashes of files that may be installed: wheels (or the sdist) from before the cut-off.

    Raises:
        ResolutionError: a pin is a pre-release, and the recipe does not name it.
        ResolverDisagreement: uv took a file that the index dates after the cut-off, or leaves a pin without a file.
    """
    allowed = target.prereleases
    if allowed is not None and (
        early := [pin for pin in pins if Version(pin.version).is_prerelease and pin.name not in allowed]
    ):
        raise ResolutionError(
            f"only a pre-release of {', '.join(f'{pin.name} ({pin.version})' for pin in early)} fits",
            "if its last release is only an sdist, name it as an [[sdist]] of the recipe with the reason; bound it in the .in "
            "file; or name it as a [[prerelease]] with the reason",
        )
    limit = f"{target.cutoff.isoformat()}T00:00:00" if target.cutoff else None
    kept: list[Pin] = []
    for pin in pins:
        sdist = pin.name in target.sdists
        files = {f"sha256:{file.sha256}": file for file in index.files(pin.name)}
        hashes: list[str] = []
        for value in pin.hashes:
            file = files.get(value)
            uploaded = file.uploaded.isoformat() if file and file.uploaded else None
            if file is None or (limit and (uploaded is None or uploaded >= limit)):
                raise ResolverDisagreement(
                    f"uv took {file.filename if file else value} for {pin.name} {pin.version}, "
                    f"uploaded {uploaded or 'at an unknown time'}; the cut-off is {target.cutoff}",
                    "the index contradicts itself; lock again, or against another mirror",
                )
            if file.filename.endswith(".whl") != sdist:
                hashes.append(value)
        if not hashes:
            raise ResolverDisagreement(
                f"{pin.name} {pin.version} has no {'sdist' if sdist else 'wheel'} from before {target.cutoff}",
                "name it as an [[sdist]] of the recipe with its reason, or bound it",
            )
        kept.append(Pin(pin.name, pin.version, tuple(sorted(hashes)), pin.marker, pin.via))
    return kept


def render(header: str, pins: Sequence[Pin]) -> str:
    """A requirements.txt in pip-tools' format."""
    lines = [header]
    for pin in sorted(pins, key=lambda pin: pin.name):
        requirement = f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "")
        lines.append(" \\\n".join([requirement, *(f"    --hash={value}" for value in pin.hashes)]) + "\n")
        if len(pin.via) == 1:
            lines.append(f"    # via {pin.via[0]}\n")
        elif pin.via:
            lines.append("    # via\n" + "".join(f"    #   {asker}\n" for asker in pin.via))
    return "".join(lines)


def conda_lock(work: Path, sources: Sequence[str], output: str, virtual: Mapping[str, str], **variables: str) -> None:
    """Have conda-lock write `output` from environment.yml files, solved by py-rattler; paths are relative to `work`.

    Args:
        variables: environment variables for `verlock.conda.conda_command`.

    Raises:
        ResolutionError: the layer cannot be solved.
        NetworkError: no channel answers.
    """
    adapter = work / "conda-adapter"
    adapter.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m verlock.conda.conda_command "$@"\n', encoding="utf-8")
    adapter.chmod(0o755)
    specification = work / "virtual-packages.yml"
    listed = "".join(f'      {name}: "{version}"\n' for name, version in virtual.items())
    specification.write_text(f"subdirs:\n  linux-64:\n    packages:\n{listed}", encoding="utf-8")
    command = [sys.executable, "-m", "conda_lock", "lock", "--conda", str(adapter), "--platform", "linux-64"]
    command += ["--virtual-package-spec", str(specification), "--lockfile", output, "--log-level", "ERROR"]
    command += [word for source in sources for word in ("--file", source)]
    names = ("VERLOCK_CONDA_REPODATA", "VERLOCK_CONDA_MIRROR", "VERLOCK_CACHE", "RATTLER_AUTH_FILE", "XDG_CONFIG_HOME")
    passed = {name: value for name in names if (value := os.environ.get(name))}
    full = environment(PYTHONPATH=str(paths.ROOT), **passed, **variables)
    _run(command, work, "the conda layer cannot be solved", full)


def _run(command: Sequence[str], work: Path, complaint: str, variables: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, env=dict(variables), check=False)
    if done.returncode == 0:
        return
    text = addresses.scrubbed(done.stderr.strip() or done.stdout.strip())
    said = "\n  ".join(line.rstrip() for line in text.splitlines()[-30:])
    error: VerlockError
    if '"error": "NetworkError"' in said or "NetworkError" in said or _NETWORK.search(said):
        error = NetworkError(
            f"{complaint}, because an index or channel does not answer:\n  {said}",
            "check the network, then run it again",
        )
    else:
        error = ResolutionError(f"{complaint}:\n  {said}", "loosen or tighten a bound in environments/")
    raise error
