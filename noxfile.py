"""verlock's front: `nox -l` lists what there is to do. Needs nox and nothing else.

Every session runs `python -m verlock` (or pytest, ruff, mypy) with one shared set of tools, which is installed from its hashed
lock the first time it is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "none"

ROOT = Path(__file__).parent
TOOLS_LOCK = ROOT / "locks" / "tools" / "requirements.txt"
TOOLS = Path(os.environ.get("VERLOCK_TOOLS") or ROOT / ".nox" / "tools").absolute()


def tools(session: nox.Session) -> Path:
    """The folder with the tools' executables; made from its lock when the lock or this Python changed."""
    wanted = hashlib.sha256(TOOLS_LOCK.read_bytes() + sys.version.encode()).hexdigest()
    stamp = TOOLS / "verlock-tools"
    if stamp.exists() and stamp.read_text() == wanted:
        return TOOLS / "bin"
    TOOLS.parent.mkdir(parents=True, exist_ok=True)
    with (TOOLS.parent / f".{TOOLS.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sessions at once: the second finds the tools made
        if not (stamp.exists() and stamp.read_text() == wanted):
            _make_tools(session, stamp, wanted)
    return TOOLS / "bin"


def _make_tools(session: nox.Session, stamp: Path, wanted: str) -> None:
    if TOOLS.exists() and not stamp.exists():
        session.error(
            f"{TOOLS} exists and was not made by verlock: move it away, or name another folder with VERLOCK_TOOLS"
        )
    session.log(f"installing verlock's tools into {TOOLS} (once)")
    shutil.rmtree(TOOLS, ignore_errors=True)
    TOOLS.mkdir()
    stamp.write_text("unfinished")
    session.run(sys.executable, "-m", "venv", str(TOOLS), external=True, silent=True)
    pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    session.run(*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(TOOLS_LOCK), external=True)
    stamp.write_text(wanted)  # last: without it the tools are made anew


def verlock(session: nox.Session, *arguments: str) -> None:
    """Run one verlock command; its exit code becomes nox's own, so that a script can tell the kinds of failure apart."""
    code = subprocess.call([tools(session) / "python", "-m", "verlock", *arguments, *session.posargs], cwd=ROOT)
    if code:
        sys.exit(code)


def summary(variant: str) -> str:
    """A recipe's one-line summary; a broken recipe says so here, and in full when its session runs."""
    try:
        return str(tomllib.loads((ROOT / "recipes" / variant / "recipe.toml").read_text(encoding="utf-8"))["summary"])
    except (OSError, ValueError, KeyError):
        return "its recipe.toml is broken: run this session to see where"


def generate(variant: str) -> None:
    """The sessions of one variant."""

    def environment(session: nox.Session) -> None:
        verlock(session, "create", variant)

    def smoke(session: nox.Session) -> None:
        verlock(session, "smoke", variant)

    environment.__doc__ = f"{summary(variant)}: make its environment [-- --python 3.12 --base conda --strict]"
    smoke.__doc__ = f"{summary(variant)}: prove FSDP + rollout on this GPU [-- --ranks 2 --sabotage MODE]"
    nox.session(name=f"env-{variant}", default=False, tags=["env"])(environment)
    nox.session(name=f"smoke-{variant}", default=False, tags=["smoke"])(smoke)


for folder in sorted((ROOT / "recipes").glob("*/recipe.toml")):
    generate(folder.parent.name)


@nox.session(default=False)
def verify(session: nox.Session) -> None:
    """Hold every installed file of an environment against its lock: -- VARIANT [--json]."""
    verlock(session, "verify")


@nox.session(default=False)
def patches(session: nox.Session) -> None:
    """Show a variant's patches, why they are needed and whether they are applied: -- VARIANT."""
    verlock(session, "patches")


@nox.session(default=False)
def status(session: nox.Session) -> None:
    """Show for each variant on which GPUs it was proven, and whether that proof still holds."""
    verlock(session, "status")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Make the locks again from environments/ and recipes/ [-- VARIANT ... --check --upgrade PACKAGE --cutoff DATE]."""
    verlock(session, "lock")


@nox.session(default=False)
def diff(session: nox.Session) -> None:
    """Show what changed in the locks between two git revisions, or since one [-- REV REV --markdown]."""
    verlock(session, "diff")


@nox.session(default=False)
def why(session: nox.Session) -> None:
    """Say who asks for a package and why it is not newer: -- VARIANT PACKAGE."""
    verlock(session, "why")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests; the slow and real ones with [-- -m e2e]."""
    arguments = session.posargs if "-m" in session.posargs else ["-m", "not e2e", *session.posargs]
    session.run(str(tools(session) / "python"), "-m", "pytest", *arguments, external=True)


@nox.session(default=False)
def lint(session: nox.Session) -> None:
    """Check style and types, and that the locks are current."""
    python = str(tools(session) / "python")
    session.run(python, "-m", "ruff", "check", ".", external=True)
    session.run(python, "-m", "ruff", "format", "--check", ".", external=True)
    session.run(python, "-m", "mypy", external=True)
    session.run(python, "-m", "verlock", "lock", "--check", external=True)
