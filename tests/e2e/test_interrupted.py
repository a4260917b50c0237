"""Nothing is lost: Ctrl-C in a terminal through nox, SIGTERM, SIGKILL, and no network; with the toy variant and the real uv."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import toy

from verlock import paths
from verlock.env import create
from verlock.variant import receipt

NOX = shutil.which("nox")
pytestmark = pytest.mark.skipif(toy.compiler() is None, reason="no C compiler to make the toy's shared objects with")
PATIENCE = 300  # seconds, far more than any of this takes; a test that waits so long has found something


@pytest.fixture
def fresh(tmp_path):
    """A project with nothing made yet."""
    return toy.Project(tmp_path)


@pytest.fixture
def made(fresh):
    """A project whose toy environment is made."""
    fresh.create()
    return fresh


def outdate(project):
    """Change the lock, so that the environment that is there must be replaced."""
    lock = project.locks / "build-requirements.txt"
    lock.write_text("" if lock.read_text() else f"wheel==0.45.1 --hash=sha256:{'a' * 64}\n")


def digests(project):
    """The digests of the whole environments at the prefix and beside it."""
    found = []
    for folder in (project.prefix, project.envs / ".toy.old"):
        with contextlib.suppress(OSError):
            found.append(hashlib.sha256((folder / receipt.NAME).read_bytes()).hexdigest())
    return found


def heals(project):
    """The next run completes whatever there is, and nothing else is left."""
    project.create()
    project.verify()
    assert project.imports() == "2.5.1 0.7.3 0.3.0.post1"
    assert {path.name for path in project.envs.iterdir()} == {"toy", ".toy.lock"}


# Ctrl-C in a terminal ----------------------------------------------------------------------------------


@pytest.fixture
def terminal(fresh):
    """Run `nox -s env-toy` in a terminal of its own, and press Ctrl-C `after` seconds of its session; (code, seconds, screen)."""
    if NOX is None:
        pytest.skip("nox is not on PATH")
    shutil.copy(paths.ROOT / "noxfile.py", fresh.root)
    lock = fresh.root / "locks/tools/requirements.txt"
    lock.parent.mkdir()
    lock.write_text("")
    tools = fresh.folder / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tools / "bin/python").chmod(0o755)
    python = Path(NOX).read_text().splitlines()[0].removeprefix("#!")
    code = "import hashlib, sys; print(hashlib.sha256(sys.version.encode()).hexdigest(), end='')"
    (tools / "verlock-tools").write_text(subprocess.check_output([python, "-c", code], text=True))

    def run(after=None):
        pid, screen = pty.fork()
        if pid == 0:
            toy.hear_ctrl_c()
            os.chdir(fresh.root)
            variables = fresh.environment(VERLOCK_TOOLS=str(tools), VERLOCK_BASE="host", TERM="xterm")
            os.execve(NOX, [NOX, "-s", "env-toy"], variables)
        seen, begun, pressed = b"", None, after is None
        while True:
            if begun is None and b"Running session" in seen:
                begun = time.monotonic()
            if not pressed and begun is not None and time.monotonic() - begun >= after:
                os.write(screen, b"\x03")
                pressed = True
            if select.select([screen], [], [], 0.002)[0]:
                try:
                    seen += os.read(screen, 65536)
                except OSError:  # the other side is closed
                    break
        os.close(screen)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), time.monotonic() - (begun or 0), seen.decode(errors="replace")

    return run


def test_ctrl_c_at_ten_random_moments(fresh, terminal):
    """The older environment, or the new one, is whole at every one of them, and the next run makes the new one."""
    code, whole, screen = terminal()
    assert code == 0, screen
    seed = random.randrange(1 << 32)
    print("seed", seed)
    moments = random.Random(seed)
    codes = []
    for _ in range(10):
        (before,) = digests(fresh)
        outdate(fresh)
        after = moments.uniform(0, whole)
        code, _, screen = terminal(after)
        codes.append(code)
        there = digests(fresh)
        assert there, f"after {after} s nothing is left (seed {seed}): {screen}"
        assert before in there or "seal" in screen, f"after {after} s the old one is lost (seed {seed}): {screen}"
        if "verlock: interrupted" in screen:
            assert code == 130 and "Traceback" not in screen and not (fresh.envs / ".toy.old").exists(), screen
        heals(fresh)
    assert 130 in codes, f"nothing was interrupted (seed {seed})"


def test_ctrl_c_pressed_again_and_again_is_as_harmless(fresh, terminal):
    """The second one meets the clean-up; what that did not finish, the next run does."""
    _, whole, _ = terminal()
    moments = random.Random(0)
    for _ in range(3):
        (before,) = digests(fresh)
        outdate(fresh)
        process = fresh.start("create", "toy", "--base", "host")
        time.sleep(moments.uniform(whole / 4, whole))
        for _ in range(5):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.005)
        process.communicate(timeout=PATIENCE)
        # one that comes while Python ends, after the new one was sealed, ends the process as a signal does
        ended = (0, 130, -signal.SIGINT)
        assert before in digests(fresh) or (process.returncode in ended and digests(fresh))
        heals(fresh)


# SIGTERM, SIGHUP, SIGKILL -------------------------------------------------------------------------------


def until(process, word):
    """Read what a run says until a line begins with `word`; fails where none does."""
    for line in process.stderr:
        if line.split()[:1] == [word]:
            return
    pytest.fail(f"no line of {word}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("step", ["base", "wheels"])
def test_a_signal_ends_it_cleanly_and_gives_the_old_one_back(made, number, step):
    (before,) = digests(made)
    outdate(made)
    process = made.start("create", "toy", "--base", "host")
    until(process, step)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number and "verlock: interrupted" in err and "Traceback" not in err, err
    assert digests(made) == [before]
    assert {path.name for path in made.envs.iterdir()} == {"toy", ".toy.lock"}
    heals(made)


@pytest.mark.parametrize("step", list(create.STEPS))
@pytest.mark.parametrize("alone", [True, False], ids=["verlock alone", "with its children"])
def test_killed_when_a_step_appears_on_the_screen(made, step, alone):
    (before,) = digests(made)
    outdate(made)
    process = made.start("create", "toy", "--base", "host")
    until(process, step)
    os.kill(process.pid, signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    there = digests(made)
    if before not in there:
        # A check that is said to be done is sealed at once, so the new one may be there: it has to be whole, as it was left.
        assert there and step in ("check", "seal"), f"the old one is lost: {list(made.envs.iterdir())}"
        made.verify()
    heals(made)


def test_what_a_killed_run_put_aside_comes_back_where_the_next_run_fails(made, edit):
    """A run is killed while it replaces the environment, and then the new one cannot be made at all."""
    (before,) = digests(made)
    outdate(made)
    process = made.start("create", "toy", "--base", "host")
    until(process, "base")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    edit(made.locks / "requirements.txt", "odd==1", "odd==2")
    made.create(code=26)
    assert digests(made) == [before] and made.imports() == "2.5.1 0.7.3 0.3.0.post1"


def test_what_is_left_is_collected_by_a_run_with_nothing_to_do(made):
    """A kill in the last deletion leaves the old environment under one of these names."""
    shutil.copytree(made.prefix, made.envs / ".toy.old", symlinks=True)
    shutil.copytree(made.prefix, made.envs / ".toy.trash-1-1", symlinks=True)
    assert "up to date" in made.create()
    heals(made)


# no network ------------------------------------------------------------------------------------------


class Index(http.server.ThreadingHTTPServer):
    """A package index on the loopback with the toy's wheels, which can be switched off."""

    def __init__(self, project):
        root = project.folder / "index"
        for wheel in (project.folder / "wheels").glob("*.whl"):
            page = root / wheel.name.split("-")[0]
            page.mkdir(parents=True)
            shutil.copy(wheel, page)
            link = f'<a href="{wheel.name}#sha256={toy.sha256(wheel.read_bytes())}">{wheel.name}</a>'
            (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
        super().__init__(("127.0.0.1", 0), handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.variables = {"UV_FIND_LINKS": "", "UV_DEFAULT_INDEX": f"http://127.0.0.1:{self.server_address[1]}"}

    def off(self):
        """From now on nobody answers there."""
        self.shutdown()
        self.server_close()


@pytest.fixture
def served(fresh, capfd):
    """A project that was made from an index, which is off now; and the variables that name it."""
    index = Index(fresh)
    fresh.create(**index.variables)
    index.off()
    return fresh, index.variables


def test_with_everything_cached_no_network_is_needed_and_nothing_need_be_said(served):
    project, variables = served
    shutil.rmtree(project.prefix)
    project.create(**variables)
    project.verify()


def test_without_the_cache_the_host_that_does_not_answer_is_named(served):
    project, variables = served
    shutil.rmtree(project.prefix)
    shutil.rmtree(project.folder / "uv-cache")
    assert "127.0.0.1" in project.create(code=24, **variables, UV_HTTP_RETRIES="0")


@pytest.mark.parametrize("damage", ["deleted", "own copy", "script", "added"])
def test_damage_of_the_environment_alone_is_healed_without_a_network(served, damage):
    project, variables = served
    file = project.site / "torch/lib/libtorch_python.so"
    if damage == "deleted":
        file.unlink()
    elif damage == "own copy":
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data[:-1] + b"x")
    elif damage == "script":
        (project.prefix / "bin/vllm").write_text("#!/bin/false\n")
    else:
        (project.site / "torch/extra.py").write_text("")
    assert "healing" in project.create(**variables)
    project.verify()


def test_damage_of_the_cache_itself_drops_that_package_alone_and_says_that_it_must_be_fetched(served):
    project, variables = served
    file = project.site / "torch/lib/libtorch_python.so"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"x")  # through the hardlink
    said = project.create(code=24, **variables, UV_HTTP_RETRIES="0")
    assert "in uv's cache too, and therefore fetched again: torch" in said
    assert project.imports() == "2.5.1 0.7.3 0.3.0.post1", "what was there is gone"
    found = {path.name for path in (project.folder / "uv-cache/archive-v0").glob("*/*.dist-info")}
    assert found == {"vllm-0.7.3.dist-info", "verl-0.3.0.post1.dist-info", "odd-1.dist-info"}
    project.create()
    project.verify()
