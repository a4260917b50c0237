"""Find a CPython of a given minor version on this machine, for the base where no conda channel answers.

A name on PATH proves nothing: a pyenv shim called python3.10 exits with 127 when no such version is active, and
`python3` may be PyPy. So each candidate is run and asked what it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.version import Version

_QUESTION = """
import json, platform, struct, sys
import ssl, venv
with open("/proc/self/maps") as maps:
    library = next((line.split(None, 5)[5].strip() for line in maps if "/libpython3." in line), None)
print(json.dumps({"library": library,
                  "implementation": platform.python_implementation(), "version": platform.python_version(),
                  "executable": sys.executable, "bits": 8 * struct.calcsize("P"), "venv": sys.prefix != sys.base_prefix}))
"""
VARIABLE = "VERLOCK_HOST_PYTHON"  # names an interpreter that is taken before all others of its minor version
_PATIENCE = 10  # seconds a candidate may take to start; a cold network home takes a few


@dataclass(frozen=True)
class HostPython:
    """A working interpreter: its own path (never a shim's), its full version, and its libpython where it is not built in."""

    executable: Path
    version: str
    libpython: Path | None = None


def find(minor: str) -> HostPython | None:
    """The newest working 64-bit CPython `minor` (such as "3.10") outside any virtual environment, or None.

    One that VERLOCK_HOST_PYTHON names counts before all others: a bundle's is named there.
    """
    named = os.environ.get(VARIABLE)
    if named and (own := probe(Path(named))) and own.version.rpartition(".")[0] == minor:
        return own
    for name in (f"python{minor}", "python3"):  # the second only where the first finds nothing: each costs a start
        found: dict[Path, HostPython] = {}
        for path in candidates(minor, name):
            if path.resolve() in found:
                continue
            python = probe(path)
            if python and python.version.rpartition(".")[0] == minor:
                found[path.resolve()] = python
        if found:
            return max(found.values(), key=lambda python: Version(python.version))
    return None


def candidates(minor: str, name: str) -> Iterator[Path]:
    """Executables called `name` on PATH, in pyenv's and uv's own folders for `minor`, and in the system's."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails for a user without a home)
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    folders += sorted(pyenv.glob(f"versions/{minor}.*/bin"))
    managed = os.environ.get("UV_PYTHON_INSTALL_DIR") or Path(
        os.environ.get("XDG_DATA_HOME") or home / ".local/share", "uv/python"
    )
    folders += sorted(Path(managed).glob(f"cpython-{minor}.*/bin"))
    folders += [Path("/usr/bin"), Path("/usr/local/bin"), Path(sys.base_prefix, "bin")]
    for folder in dict.fromkeys(folders):
        path = folder / name
        if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113 (Path's may fail in a folder that is not ours)
            yield path


def probe(path: Path) -> HostPython | None:
    """What this interpreter is, or None where it does not run, is no 64-bit CPython, or sits in a virtual environment."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _ask(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))


@cache
def _ask(path: Path, identity: tuple[int, ...]) -> HostPython | None:
    """The same, asked once in a run where nothing changed, by what the file is: each answer costs a start of Python."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    if not answer or answer["implementation"] != "CPython" or answer["bits"] != 64 or answer["venv"]:
        return None
    library = answer.get("library")
    return HostPython(Path(answer["executable"]), answer["version"], Path(library) if library else None)
