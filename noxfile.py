"""verlock: locked verl x vLLM environments. What there is to do, in the order of use:

  an environment            env-VARIANT, verify, patches, build-flash-attn
  its use                   doctor, run, shell
  proof on your GPU         smoke-VARIANT, bench-rollout, status
  what is locked, and why   lock, diff, why, find, compare
  for other places          bundle, relocate
  for other tools           export, sbom, audit
  work on verlock           tests, faults, coverage, lint, docs

Options follow `--`: nox -s env-vllm073 -- --python 3.12 --base conda --strict
"""

# Needs nox and nothing else. A session runs in a set of tools that is installed from its own hashed lock in locks/tools/ when
# a session first needs it. `nox -l` lists sessions in the order of this file.

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import nox

if sys.version_info < (3, 10):  # noqa: UP036 (this file runs on the Python of whichever nox the user has)
    sys.exit(
        "verlock needs CPython 3.10 or newer, and this nox runs on {}.{}: `pipx install --force --python PYTHON nox` puts nox on "
        "another one, where PYTHON is such as /usr/bin/python3.12".format(*sys.version_info)
    )
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "none"
nox.virtualenv.OPTIONAL_VENVS = {}  # else nox looks for uv at every run, though no session uses a venv made by nox

ROOT = Path(__file__).parent
WIDTH = 100  # columns of `nox -l`
FAST = "not e2e and not faults"  # which tests are fast
TOOLS = Path(os.environ.get("VERLOCK_TOOLS") or ROOT / ".nox" / "tools").absolute()


def tools(session: nox.Session, name: str = "requirements") -> Path:
    """The folder with the executables of a set of tools; made from its lock if the lock or this Python has changed.

    The base set, which verlock runs on, is in TOOLS; `tests` is beside it in TOOLS-tests, and so on.
    """
    lock = ROOT / "locks" / "tools" / f"{name}.txt"
    folder = TOOLS if name == "requirements" else TOOLS.with_name(f"{TOOLS.name}-{name}")
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / "verlock-tools"
    if stamp.exists() and stamp.read_text() == wanted:
        return folder / "bin"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two sessions at once: the second waits and finds the tools ready
        if not (stamp.exists() and stamp.read_text() == wanted):
            _make_tools(session, lock, stamp, wanted)
    return folder / "bin"


def _make_tools(session: nox.Session, lock: Path, stamp: Path, wanted: str) -> None:
    folder = stamp.parent
    if folder.exists() and not stamp.exists() and any(folder.iterdir()):
        session.error(
            f"{folder} exists and was not made by verlock: move it away, or name another folder with VERLOCK_TOOLS"
        )
    session.log(f"installing tools from {lock.relative_to(ROOT)} into {folder} (once)")
    trash = folder.with_name(f".{folder.name}.trash")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        folder.rename(trash)  # first: half of it, without its stamp, would be taken for somebody else's
        shutil.rmtree(trash, ignore_errors=True)
    folder.mkdir()
    stamp.write_text("unfinished")
    session.run(sys.executable, "-m", "venv", str(folder), external=True, silent=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    # uv's settings come first, as in verlock/system/package_index.py, so that one that only uv knows reaches pip too
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or ""
    env = {"PIP_INDEX_URL": re.sub(r"^[\w.-]+=(?=\S)", "", index)} if index else {}
    if bundle := carried(session):
        pip += ["--no-index", "--find-links", str(bundle / "tools")]
    certificates = os.environ.get("SSL_CERT_FILE")  # the pip that comes with CPython 3.10 and 3.11 does not look at it
    if certificates and not any(os.environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")):
        env["PIP_CERT"] = certificates
    session.run(*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(lock), external=True, env=env)
    stamp.write_text(wanted)  # last: without it the tools are installed again


def carried(session: nox.Session) -> Path | None:
    """The bundle that this run takes its files from (`-- --from DIR`), with verlock's tools in it; else None."""
    words = [word for argument in session.posargs for word in argument.split("=", 1)]
    return Path(words[words.index("--from") + 1]).absolute() if "--from" in words[:-1] else None


def verlock(session: nox.Session, *arguments: str, tool_set: str = "requirements") -> None:
    """Run one verlock command with a set of tools.

    Its exit code becomes nox's own, so that a script can tell the kinds of failure apart.
    """
    code = attended([str(tools(session, tool_set) / "python"), "-m", "verlock", *arguments, *session.posargs])
    if code:
        sys.exit(code)


def attended(command: list[str]) -> int:
    """Run a command to its own end and return its exit code, 128 + N where signal N ended it.

    Ctrl-C reaches the command from the terminal; here it ends nothing, since the command needs as long as it needs to clean up.
    SIGTERM and SIGHUP are passed on to it. What nox was started to ignore stays ignored.
    """
    child: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, frame: object) -> None:  # no SIG_IGN, which the command would inherit
        if not child:
            early.append(number)
        elif number != signal.SIGINT:
            child[0].send_signal(number)

    heard = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        child.append(subprocess.Popen(command, cwd=ROOT))
        for number in early:
            child[0].send_signal(number)
        code = child[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def module(session: nox.Session, name: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    """Run a module with the set of tools of that name."""
    session.run(str(tools(session, name) / "python"), "-m", *arguments, external=True, env=env)


def recipes() -> list[str]:
    """The variants: each folder of recipes/ that has a recipe.toml."""
    return sorted(path.parent.name for path in (ROOT / "recipes").glob("*/recipe.toml"))


def summary(variant: str) -> str:
    """A recipe's summary, cut to what fits into a line of `nox -l`; for a broken recipe it says so."""
    try:
        text = str(tomllib.loads((ROOT / "recipes" / variant / "recipe.toml").read_text(encoding="utf-8"))["summary"])
    except (OSError, ValueError, KeyError):
        text = "its recipe.toml is broken: run this session to see where"
    return textwrap.shorten(text, WIDTH - len(f"- env-{variant} [env] -> "), placeholder=" ...")


def environment(variant: str) -> None:
    """The session that makes a variant's environment."""

    def run(session: nox.Session) -> None:
        verlock(session, "create", variant)

    run.__doc__ = summary(variant)
    nox.session(name=f"env-{variant}", default=False, tags=["env"])(run)


def smoke(variant: str) -> None:
    """The session that proves a variant."""

    def run(session: nox.Session) -> None:
        verlock(session, "smoke", variant)

    run.__doc__ = "Prove FSDP training and rollout on a GPU [-- --ranks 2 --sabotage all]"
    nox.session(name=f"smoke-{variant}", default=False, tags=["smoke"])(run)


for each in recipes():
    environment(each)


@nox.session(default=False)
def verify(session: nox.Session) -> None:
    """Compare every installed file of an environment with its lock: -- VARIANT [--json]"""
    verlock(session, "verify")


@nox.session(default=False)
def patches(session: nox.Session) -> None:
    """Show a variant's patches, why it needs them and whether they are applied: -- VARIANT"""
    verlock(session, "patches")


@nox.session(name="build-flash-attn", default=False)
def build_flash_attn(session: nox.Session) -> None:
    """Build flash-attn where no released wheel fits: -- VARIANT [--arch 9.0]"""
    verlock(session, "build-flash-attn", tool_set="build")


@nox.session(default=False)
def doctor(session: nox.Session) -> None:
    """Look for what stands in the way on this machine [-- VARIANT --deep --json]"""
    verlock(session, "doctor")


@nox.session(default=False)
def run(session: nox.Session) -> None:
    """Run a command inside an environment: -- VARIANT [--print-env --flags --sbatch] COMMAND"""
    verlock(session, "run", "--chdir", session.invoked_from)


@nox.session(default=False)
def shell(session: nox.Session) -> None:
    """Begin a bash inside an environment: -- VARIANT"""
    verlock(session, "shell", "--chdir", session.invoked_from)


for each in recipes():
    smoke(each)


@nox.session(name="bench-rollout", default=False)
def bench_rollout(session: nox.Session) -> None:
    """Measure rollouts on this GPU, with table and plots [-- VARIANT --shape 7b]"""
    verlock(session, "bench-rollout", tool_set="bench")


@nox.session(default=False)
def status(session: nox.Session) -> None:
    """Show on which GPUs each variant was proven, and whether that still holds"""
    verlock(session, "status")


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Make the locks again, or check them [-- VARIANT --check --upgrade PACKAGE --cutoff DATE]"""
    verlock(session, "lock")


@nox.session(default=False)
def diff(session: nox.Session) -> None:
    """Show what changed in the locks since a git revision, or between two [-- REV REV]"""
    verlock(session, "diff")


@nox.session(default=False)
def why(session: nox.Session) -> None:
    """Say who asks for a package and why it is not newer: -- VARIANT PACKAGE"""
    verlock(session, "why")


@nox.session(default=False)
def find(session: nox.Session) -> None:
    """Find the variant nearest to a paper or a version: -- dapo, or -- vllm 0.8.2"""
    verlock(session, "find")


@nox.session(default=False)
def compare(session: nox.Session) -> None:
    """Show two variants side by side, packages and figures: -- VARIANT VARIANT"""
    verlock(session, "compare")


@nox.session(default=False)
def bundle(session: nox.Session) -> None:
    """Put all that variants are made of into a folder: -- VARIANT... --to DIR"""
    verlock(session, "bundle")


@nox.session(default=False)
def relocate(session: nox.Session) -> None:
    """Pack a built environment into one archive for elsewhere: -- VARIANT --to TAR"""
    verlock(session, "relocate")


@nox.session(default=False)
def export(session: nox.Session) -> None:
    """Write a lock for other tools: -- VARIANT --to pylock|requirements|conda-lock|rattler"""
    verlock(session, "export")


@nox.session(default=False)
def sbom(session: nox.Session) -> None:
    """List what is in a verified environment, as CycloneDX: -- VARIANT [--output FILE]"""
    verlock(session, "sbom", tool_set="sbom")


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Look for known vulnerabilities in what is locked: -- VARIANT [--advisories FILE]"""
    verlock(session, "audit", tool_set="audit")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests; the slow and real ones with [-- -m e2e]"""
    chosen = session.posargs if "-m" in session.posargs else ["-m", FAST, *session.posargs]
    module(session, "tests", "pytest", "-n", "auto", "--dist", "loadgroup", *chosen)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Try what can go wrong at every step, minutes [-- --list --quick --plant NAME]"""
    front = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}  # it starts nox
    module(session, "tests", "pytest", "tests/faults", *session.posargs, env=front)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Run the fast tests and list the modules, those with the most untested lines first"""
    module(session, "tests", "coverage", "run", "-m", "pytest", "-m", FAST, *session.posargs)
    module(session, "tests", "coverage", "report")


@nox.session(default=False)
def lint(session: nox.Session) -> None:
    """Check style and types, and that the locks are current"""
    module(session, "lint", "ruff", "check", ".")
    module(session, "lint", "ruff", "format", "--check", ".")
    module(session, "lint", "mypy")
    module(session, "lint", "verlock", "lock", "--check")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Write the generated parts of docs/ and make web pages of it, in .nox/docs"""
    if sys.version_info < (3, 11):
        session.error("the documentation is built with CPython 3.11 or newer: start nox on such a one")
    module(session, "docs", "docs.make", *session.posargs)
    if not session.posargs:
        module(session, "docs", "sphinx", "--fail-on-warning", "--keep-going", "--fresh-env", "-q", "docs", ".nox/docs")
