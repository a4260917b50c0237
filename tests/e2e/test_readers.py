"""Every lock as others read it: py-rattler and conda-lock the conda layer, uv and pip the pip layer. Nothing is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from packaging.version import Version

from verlock.system import host_python
from verlock.variant import lockfiles
from verlock.variant.chosen import choose, names

LOCKS = [chosen for variant in names() for chosen in choose(variant).pythons()]
each_lock = pytest.mark.parametrize("chosen", LOCKS, ids=lambda chosen: f"{chosen.name}-{chosen.python}")
MOST = pytest.mark.slow("uv reads the metadata of 200 wheels a lock; an old and a new one are read each time")
one_old_one_new = pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(
            each, marks=() if (each.name, each.python) in {("vllm073", "3.10"), ("vllm0240", "3.12")} else MOST
        )
        for each in LOCKS
    ],
    ids=lambda chosen: f"{chosen.name}-{chosen.python}",
)


def conda(chosen):
    return sorted(
        (item["name"], item["version"], item["sha256"])
        for item in lockfiles.conda_packages(chosen.locks / lockfiles.CONDA_LOCK)
    )


def pip(chosen):
    return {pin.name: Version(pin.version) for pin in chosen.pins}


@pytest.fixture
def python(chosen, tmp_path):
    """The Python of an empty virtual environment, of the lock's own version."""
    host = host_python.find(chosen.python)
    if host is None:
        pytest.skip(f"there is no CPython {chosen.python}")
    subprocess.run([host.executable, "-m", "venv", tmp_path / "venv"], check=True)
    return tmp_path / "venv/bin/python"


@each_lock
def test_py_rattler(chosen):
    from rattler.lock import LockFile

    environment = LockFile.from_path(chosen.locks / lockfiles.CONDA_LOCK).default_environment()
    (platform,) = environment.platforms()
    found = [(each.name, each.version, each.hashes.sha256.hex()) for each in environment.packages(platform)]
    assert sorted((name, str(version), sha256) for name, version, sha256 in found) == conda(chosen)


@each_lock
def test_conda_lock(chosen):
    from conda_lock.lockfile import parse_conda_lock_file

    found = parse_conda_lock_file(chosen.locks / lockfiles.CONDA_LOCK).package
    assert sorted((each.name, each.version, each.hash.sha256) for each in found) == conda(chosen)


@one_old_one_new
def test_uv_pip_sync(chosen, python):
    """What it would install into an empty environment is every pin, and nothing else."""
    sdists = [word for each in chosen.recipe.sdist for word in ("--no-binary", each.package)]
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "sync",
        "--dry-run",
        "--require-hashes",
        "--only-binary",
        ":all:",
        *sdists,
    ]
    command += ["--python", python, chosen.locks / lockfiles.REQUIREMENTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    planned = re.findall(r"^ [+~] (\S+)==(\S+)", done.stderr, re.MULTILINE)
    there = re.findall(r"^ - (\S+)==", done.stderr, re.MULTILINE)
    assert {lockfiles.normalise(name): Version(version) for name, version in planned} == pip(chosen)
    assert set(there) <= {"pip", "setuptools"}  # those of venv itself


@pytest.mark.slow("pip downloads every wheel to hash it: up to 5 GB a lock")
@each_lock
def test_pip_install_require_hashes(chosen, python, tmp_path):
    """Where a requirement is set aside pip is told not to look at requirements; elsewhere it finds that all are met.

    It is the pip of verlock's own tools: pip 23.2, which CPython 3.12.1 brings, takes a pinned `uvicorn` for no pin of
    `uvicorn[standard]`; pip 25.0 does not.
    """
    report = tmp_path / "report.json"
    options = ["--dry-run", "--ignore-installed", "--require-hashes", "--no-cache-dir", "--quiet", "--report", report]
    options += ["--no-deps"] if chosen.recipe.override else []
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", *options]
    done = subprocess.run(
        [*command, "--requirement", chosen.locks / lockfiles.REQUIREMENTS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    assert {lockfiles.normalise(each["name"]): Version(each["version"]) for each in found} == pip(chosen)
