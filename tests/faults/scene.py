"""Where faults happen: one toy project at one place, put back before every fault, and the ways to run verlock in it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import toy
import toysource

from verlock import paths

HOOK = Path(__file__).parent / "hook"
PATIENCE = 90.0  # seconds: what takes longer has hung; a silent host is given up after 60
OLD, NEW = "def rank():\n    return 0\n", "def rank():\n    return 1\n"


@dataclass(frozen=True)
class Seen:
    """What a run of verlock left for its user: the exit code (negative: a signal; None: it hung) and all it said."""

    code: int | None
    said: str


@dataclass
class Scene:
    """A toy variant with an optional artefact and a patch.

    `begin` puts it back to one of: fresh (nothing made), older (whole without the artefact: a run that finds the artefact makes
    it again, and the older one must survive that), whole (nothing to do), source (fresh, vllm built from a commit).
    """

    folder: Path
    plants: Sequence[tuple[str, str, str]] = ()
    project: toy.Project = field(init=False)
    artefact: Path = field(init=False)
    more: dict[str, str] = field(default_factory=dict)  # variables that the surroundings of a fault set, until `begin`

    def __post_init__(self) -> None:
        self.work = self.folder / "work"
        self.project = toy.Project(self.work)
        self.artefact = self.project.artefact()
        self._patch()
        for file, old, new in self.plants:
            path = self.project.root / file
            text = path.read_text(encoding="utf-8")
            assert old in text, f"the planted defect no longer fits: {old!r} is not in {file}"
            path.write_text(text.replace(old, new, 1), encoding="utf-8")
        for name in ("noxfile.py", "locks/tools"):
            source, target = paths.ROOT / name, self.project.root / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        self._keep("fresh")
        for start, environment in (("older", {}), ("whole", self.with_artefact())):
            made = self.create(**environment)
            assert made.code == 0, made.said
            self._keep(start)
        self.begin("fresh")
        self._source()
        self._keep("source")

    # the places ---------------------------------------------------------------------------------------

    @property
    def prefix(self) -> Path:
        return self.envs / "toy"

    @property
    def site(self) -> Path:
        return self.prefix / "lib" / f"python{toy.MINOR}" / "site-packages"

    @property
    def envs(self) -> Path:
        return Path(self.more.get("VERLOCK_ENVS", self.project.envs))

    def _keep(self, start: str) -> None:
        subprocess.run(["cp", "-a", self.work, self.folder / start], check=True)  # -a keeps hardlinks and times

    def begin(self, start: str) -> None:
        """Put everything back to a start."""
        self.more = {}
        shutil.rmtree(self.work, ignore_errors=True)
        subprocess.run(["cp", "-a", self.folder / start, self.work], check=True)

    def _patch(self) -> None:
        project = self.project
        folder = project.recipe.parent / "patches"
        folder.mkdir()
        text = "Toy\n\n" + toysource.diff("vllm/rank.py", OLD, NEW)
        (folder / "0001-Toy.patch").write_text(text)
        with project.recipe.open("a") as recipe:
            recipe.write('[[patch]]\nfile = "0001-Toy.patch"\npackage = "vllm"\nwhy = "w"\n')
        touches = {
            "path": "vllm/rank.py",
            "before": toy.sha256(OLD.encode()),
            "after": toy.sha256(NEW.encode()),
        }
        patch = {"file": "0001-Toy.patch", "sha256": toy.sha256(text.encode()), "touches": [touches]}
        (project.locks / "sources.json").write_text(json.dumps({"patches": [patch], "wheel": None}))

    def _source(self) -> None:
        """Turn it into a variant whose vllm is built from a commit that nobody has; its wheel lies in `colleague/`."""
        project = self.project
        made = next((self.work / "wheels").glob("vllm-*"))
        (self.work / "colleague").mkdir()
        kept = made.rename(self.work / "colleague" / made.name)
        shutil.copy(self.artefact, kept.parent)
        project.lock([file for file in sorted((self.work / "wheels").glob("*.whl")) if "flash" not in file.name])
        shutil.rmtree(project.recipe.parent / "patches")
        text = project.recipe.read_text().partition("[[patch]]")[0]
        project.recipe.write_text(
            text
            + f"""
[source]
package = "vllm"
version = "0.7.3"
url = "https://127.0.0.1:9/vllm.git"
commit = "{"1" * 40}"
tree = "{"2" * 40}"
subject = "toy"
date = 2025-02-24
reason = "r"
[source.precompiled]
package = "vllm"
version = "0.7.3"
filename = "vllm-0.7.3-cp38-abi3-manylinux1_x86_64.whl"
sha256 = "{"3" * 64}"
size = 1
reason = "r"
"""
        )
        code = (
            "from verlock.variant.chosen import choose; from verlock.sources import source_wheel; "
            "print(source_wheel.inputs(choose('toy').recipe))"
        )
        inputs = self.python(code)
        wheel = {"filename": kept.name, "sha256": toy.sha256(kept.read_bytes()), "inputs": inputs}
        wheel |= {"commit": "1" * 40, "tree": "2" * 40}
        (project.locks / "sources.json").write_text(json.dumps({"patches": [], "wheel": wheel}))

    def python(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.project.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    # running ------------------------------------------------------------------------------------------

    def with_artefact(self) -> dict[str, str]:
        """The folder that has the artefact (and the built wheel, where vllm is built from a commit)."""
        colleague = self.work / "colleague"
        return {"VERLOCK_ARTEFACTS": str(colleague if colleague.exists() else self.artefact.parent)}

    def environment(self, **more: str) -> dict[str, str]:
        quick = {"UV_HTTP_RETRIES": "0", "UV_HTTP_TIMEOUT": "2", "NO_COLOR": "1", "GIT_TERMINAL_PROMPT": "0"}
        quick["PATH"] = _short_path()
        quiet = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "FAULT"), "")
        made = self.project.environment(**{**quick, **quiet, **self.more, **more})
        return {name: value for name, value in made.items() if value or name not in quiet}

    def start(self, command: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own, with the signals that a shell in the foreground gives."""
        return subprocess.Popen(
            list(command),
            cwd=self.project.root,
            env=self.environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_default_signals,  # noqa: PLW1509 (no threads here hold locks)
        )

    def finish(self, process: subprocess.Popen[bytes]) -> Seen:
        """Wait for a started command; one that hangs is ended, and its code is None."""
        try:
            out, _ = process.communicate(timeout=PATIENCE)
            return Seen(process.returncode, out.decode(errors="replace"))
        except subprocess.TimeoutExpired:
            end_session(process.pid)
            out, _ = process.communicate()
            return Seen(None, out.decode(errors="replace"))

    def run(self, *words: str, before: Sequence[str] = (), **environment: str) -> Seen:
        """One verlock command, to its end."""
        return self.finish(self.start([*before, sys.executable, "-m", "verlock", *words], **environment))

    def create(self, *words: str, before: Sequence[str] = (), **environment: str) -> Seen:
        """`verlock create toy` on the host base, unless `words` say otherwise."""
        base = [] if "--base" in words else ["--base", "host"]
        return self.run("create", "toy", *base, *words, before=before, **environment)

    def verify(self, *words: str, **environment: str) -> Seen:
        return self.run("verify", "toy", *words, **environment)

    def held(self, words: Sequence[str], *orders: Mapping[str, object], **environment: str) -> subprocess.Popen[bytes]:
        """Start verlock and wait until it has reached the hold among `orders` (see hook/sitecustomize.py)."""
        process = self.start([sys.executable, "-m", "verlock", *words], **self.hooked(*orders, **environment))
        self.until_held(process)
        return process

    def hooked(self, *orders: Mapping[str, object], **environment: str) -> dict[str, str]:
        marks = [{**order, "held": str(self.work / "held")} for order in orders]
        (self.work / "held").unlink(missing_ok=True)
        return {"PYTHONPATH": str(HOOK), "FAULT": json.dumps(marks), **environment}

    def until_held(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + PATIENCE
        while not (self.work / "held").exists():
            if process.poll() is not None or time.monotonic() > end:
                end_session(process.pid)
                raise AssertionError(f"the step was not reached: {process.communicate()[0].decode()}")
            time.sleep(0.005)

    def release(self) -> None:
        """Let a held run go on."""
        (self.work / "held.go").touch()

    # through nox, on a terminal --------------------------------------------------------------------------

    def nox_tools(self) -> str:
        """A folder of tools that nox takes for finished: this Python."""
        tools = self.work / "tools"
        (tools / "bin").mkdir(parents=True, exist_ok=True)
        python = tools / "bin/python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        first = Path(str(nox())).read_text().splitlines()[0].removeprefix("#!")
        version = subprocess.run(
            [first, "-c", "import sys; print(sys.version, end='')"], capture_output=True, text=True, check=True
        ).stdout
        lock = (self.project.root / "locks/tools/requirements.txt").read_bytes()
        (tools / "verlock-tools").write_text(hashlib.sha256(lock + version.encode()).hexdigest())
        return str(tools)

    def on_terminal(
        self,
        command: Sequence[str],
        when: Callable[[str], bool],
        keys: Sequence[tuple[float, bytes]],
        **environment: str,
    ) -> Seen:
        """Run a command on a terminal of its own; once `when` (the screen so far) holds, press keys, each after a pause."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            list(command),
            cwd=self.project.root,
            env=self.environment(TERM="xterm", COLUMNS="200", **environment),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: (_default_signals(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),  # noqa: PLW1509
        )
        os.close(slave)
        screen, pressed, end = b"", False, time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            screen += _read(master, 0.02)
            if not pressed and when(screen.decode(errors="replace")):
                pressed = True
                for pause, key in keys:
                    time.sleep(pause)
                    os.write(master, key)
        code = process.poll()
        for _ in range(100):  # what it started may live a little longer than it
            screen += _read(master, 0.05)
            if not in_session(process.pid):
                break
        end_session(process.pid)
        process.wait()
        os.close(master)
        return Seen(code if pressed else None, screen.decode(errors="replace") + ("" if pressed else "\n(never held)"))


def _read(descriptor: int, seconds: float) -> bytes:
    if select.select([descriptor], [], [], seconds)[0]:
        with contextlib.suppress(OSError):
            return os.read(descriptor, 65536)
    return b""


def _short_path() -> str:
    """PATH without pyenv's shims and virtual environments: looking for a base, verlock starts each Python on it."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(
        each for each in folders if Path(each).name != "shims" and not Path(each, "activate").exists()
    )


def _default_signals() -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, signal.SIG_DFL)


def nox() -> str | None:
    """Where nox is, if it is."""
    beside = Path(sys.executable).with_name("nox")
    return shutil.which("nox") or (str(beside) if beside.exists() else None)


def in_session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(words[3]) == leader and words[0] != "Z":
                found.append(int(folder.name))
    return found


def end_session(leader: int) -> None:
    for each in in_session(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


@contextlib.contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    """A file system of its own at `place`. Raises PermissionError where mounting is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.decode())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)
