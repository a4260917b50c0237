"""Child processes: which of the caller's variables each kind of child starts with, and the end of what it said."""

from __future__ import annotations

import fnmatch
import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

THIS_MACHINE = ("127.0.0.1", "localhost")
PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "these lead to a proxy")


@dataclass(frozen=True)
class Policy:
    """What one kind of child gets of the environment: patterns of names, each with the reason, and what is set.

    `keeps` None passes everything on but what `drops` names; else nothing is passed on but what `keeps` names. Patterns are those
    of a shell; capitals do not matter.
    """

    drops: Mapping[str, str] = field(default_factory=dict)
    keeps: Mapping[str, str] | None = None
    sets: Mapping[str, str] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of such a child, with `more` on top."""
        named = self.drops if self.keeps is None else self.keeps
        kept = {name: value for name, value in os.environ.items() if _any(name, named) != (self.keeps is None)}
        if proxied(kept):
            kept |= dict.fromkeys(("no_proxy", "NO_PROXY"), no_proxy(kept))
        return {**kept, **self.sets, **more}


def proxied(variables: Iterable[str]) -> bool:
    """Whether variables of these names lead to a proxy."""
    return any(_any(name, PROXIES) for name in variables)


def no_proxy(variables: Mapping[str, str]) -> str:
    """What no proxy is asked for: the user's own list, and this machine, where verlock's own servers are (`loopback`)."""
    users = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
    listed = [place.strip() for place in users.split(",") if place.strip()]
    return users if "*" in listed else ",".join(dict.fromkeys([*listed, *THIS_MACHINE]))


def _any(name: str, patterns: Mapping[str, str]) -> bool:
    return any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in patterns)


_REACHING = "how an index is reached is the user's"
_DECIDED = "what is installed, and into what, is decided by the lock and by verlock"
_MIXED = "it would mix other packages into the environment"
_PROVEN = "another setting than the recipe's would be proven"

# A process inside a variant's environment: its own packages and the recipe's settings, whatever the shell has.
VARIANT = Policy(
    drops={
        "PYTHONPATH": _MIXED,
        "PYTHONHOME": _MIXED,
        "PYTHONSTARTUP": _MIXED,
        "VIRTUAL_ENV": _MIXED,
        "CONDA_PREFIX": _MIXED,
        "LD_PRELOAD": _MIXED,
        "VLLM_*": _PROVEN,
        "RAY_*": _PROVEN,
        "PYTORCH_CUDA_ALLOC_CONF": _PROVEN,
    },
    sets={"PYTHONNOUSERSITE": "1"},
)

# uv. What says from where and how it installs (indexes, mirrors, certificates, caches, link mode, timeouts) is the user's.
UV = Policy(
    drops={
        f"UV_{name}": _DECIDED
        for name in (
            *("SYSTEM_PYTHON", "PYTHON", "BREAK_SYSTEM_PACKAGES", "TARGET", "PREFIX", "PROJECT", "WORKING_DIR"),
            *("NO_VERIFY_HASHES", "TORCH_BACKEND", "EXCLUDE_NEWER", "PRERELEASE", "RESOLUTION", "CONSTRAINT"),
            *("OVERRIDE", "BUILD_CONSTRAINT", "EXCLUDE", "NO_BINARY", "NO_BINARY_PACKAGE", "NO_BUILD"),
            *("NO_BUILD_PACKAGE", "NO_BUILD_ISOLATION", "VENV_SEED", "VENV_RELOCATABLE", "VENV_CLEAR"),
            "REQUIRE_HASHES",
        )
    },
    sets={"UV_NO_PROJECT": "1", "VIRTUAL_ENV": ""},
)

# Resolvers: nothing of the user's configuration but the way to an index, one locale, UTC; so a lock is the same everywhere.
RESOLVER = Policy(
    keeps={
        **dict.fromkeys(("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME"), "every program needs them"),
        **dict.fromkeys(
            ("UV_CACHE_DIR", "UV_HTTP_TIMEOUT", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "NETRC", "*_PROXY"), _REACHING
        ),
        **dict.fromkeys(
            ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT"), _REACHING
        ),
    },
    sets={
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "NO_COLOR": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_NO_CONFIG": "1",
    },
)

# git, where the user's configuration may have no say (line ends, filters, hooks). git before 2.32 knows only HOME.
GIT = Policy(
    drops={"GIT_*": "they are about another repository"},
    sets={
        **dict.fromkeys(("GIT_CONFIG_GLOBAL", "HOME", "XDG_CONFIG_HOME"), os.devnull),
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    },
)

# setup.py of a source: nothing of the user's, no network (a proxy that is not there), and nothing of the day.
BUILD = Policy(
    keeps={},
    sets={
        "PATH": os.defpath,
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    },
)

# compileall in an environment: byte code as Python itself would write it at the first import.
COMPILE = Policy(drops={"SOURCE_DATE_EPOCH": "it makes byte code that is believed whatever its source says"})

# A module of verlock in a process of its own, with verlock's own Python.
OWN = Policy(sets={"PYTHONSAFEPATH": "1"})


def bound(command: Sequence[str | Path]) -> list[str | Path]:
    """The command as one that the kernel kills when verlock ends, however it ends; unchanged where there is no util-linux.

    A uv that outlives a killed verlock would go on writing into a folder where the next run makes the environment again. (Not by
    `preexec_fn`: what Python runs around such a fork swallows a Ctrl-C that comes meanwhile.)
    """
    return [*_binding(), *command]


@functools.cache
def _binding() -> tuple[str, ...]:
    """The words before such a command; util-linux before 2.33, RHEL 8's for one, does not know the option."""
    setpriv = shutil.which("setpriv")
    words = (setpriv or "", "--pdeathsig", "KILL", "--")
    works = setpriv and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    return words if works else ()


def tail(said: str | Path, lines: int) -> str:
    """The last lines of a child's output (or of its log file), indented and cut to 300 characters, for an error message."""
    if isinstance(said, Path):
        said = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
    return "\n".join(f"    {line.rstrip()[:300]}" for line in said.strip().splitlines()[-lines:])
