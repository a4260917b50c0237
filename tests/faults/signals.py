"""Faults by signals: runs that are killed, interrupted, stopped, or lose a child or their screen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import badserver
import pytest
import scene as scenes
from judge import KILLED, Cell
from networks import index_of
from scene import Scene, Seen

# Where each step is met: what the process does to the system there.
AT: dict[str, tuple[str, str]] = {
    "preflight": ("subprocess.Popen", " cache dir"),
    "base": ("subprocess.Popen", " venv "),
    "artefacts": ("open", "/cache/artefacts/"),
    "wheels": ("subprocess.Popen", " sync "),
    "patches": ("os.rename", "rank.py"),
    "check": ("subprocess.Popen", "libtorch_python"),  # which the first child is told to load
    "seal": ("os.rename", "/verlock.json"),
    "no-op": ("open", "/verlock.json"),
    "verify": ("open", "/verlock.json"),
}
MADE = {"no-op", "verify"}  # steps at an environment that is whole
SLOW = {"do": "slow", "event": "os.remove"}  # a disk that takes its time to delete


def hold(step: str) -> dict[str, object]:
    event, text = AT[step]
    return {"do": "hold", "event": event, "text": text}


def _words(step: str) -> list[str]:
    return ["verify", "toy"] if step == "verify" else ["create", "toy", "--base", "host"]


def _starts(step: str) -> tuple[str, ...]:
    return ("whole",) if step in MADE else ("fresh", "older") if step in ("base", "wheels", "seal") else ("older",)


def _sent(number: signal.Signals, step: str, codes: set[int], quick: bool = False) -> Cell:
    """One signal to verlock and all its children, in the middle of a step."""

    def do(scene: Scene) -> Seen:
        process = scene.held(_words(step), hold(step), SLOW, **scene.with_artefact())
        os.killpg(process.pid, number)
        return scene.finish(process)

    return Cell(do, frozenset(codes), _starts(step), abrupt=bool(codes & KILLED), quick=quick)


def kill(step: str) -> Cell:
    return _sent(signal.SIGKILL, step, {-9}, quick=step in ("base", "wheels", "seal"))


def term(step: str) -> Cell:
    return _sent(signal.SIGTERM, step, {-15, 143}, quick=step == "wheels")


def hang_up(step: str) -> Cell:
    return _sent(signal.SIGHUP, step, {-1, 129})


def interrupt(step: str) -> Cell:
    return _sent(signal.SIGINT, step, {130})


def _through_nox(step: str, keys: list[tuple[float, bytes]], codes: set[int], **more: object) -> Cell:
    def do(scene: Scene) -> Seen:
        name = scenes.nox() or pytest.skip("there is no nox")
        session = ["verify", "--", "toy"] if step == "verify" else ["env-toy", "--", "--base", "host"]
        hooked = scene.hooked(hold(step), SLOW, VERLOCK_TOOLS=scene.nox_tools(), **scene.with_artefact())
        noxfile = str(scene.project.root / "noxfile.py")
        held = scene.work / "held"
        return scene.on_terminal([name, "-f", noxfile, "-s", *session], lambda screen: held.exists(), keys, **hooked)

    return Cell(do, frozenset(codes), _starts(step), **more)  # type: ignore[arg-type]


def ctrl_c(step: str) -> Cell:
    return _through_nox(step, [(0.0, b"\x03")], {130}, quick=step in ("base", "wheels", "seal"))


def ctrl_c_twice(step: str) -> Cell:
    return _through_nox(step, [(0.0, b"\x03"), (0.15, b"\x03")], {130, -2}, abrupt=True)


def ctrl_backslash(step: str) -> Cell:
    return _through_nox(step, [(0.0, b"\x1c")], {-3, 131}, abrupt=True)


def kill_in_clean_up(step: str) -> Cell:
    """Ctrl-C, and the machine goes off while the rest is tidied up."""

    def do(scene: Scene) -> Seen:
        process = scene.held(_words(step), hold(step), SLOW, **scene.with_artefact())
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return scene.finish(process)

    return Cell(do, frozenset({-9, 130}), _starts(step), abrupt=True)


def stop_and_go_on(step: str) -> Cell:
    def do(scene: Scene) -> Seen:
        process = scene.held(_words(step), hold(step), **scene.with_artefact())
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(0.2)
        scene.release()
        os.killpg(process.pid, signal.SIGCONT)
        return scene.finish(process)

    return Cell(do, frozenset({0}), _starts(step)[-1:])


def _while_uv_waits(scene: Scene, act: object) -> Seen:
    """Run `act(process, uv's pid)` while uv waits for an index that never answers."""
    with badserver.serve("stalls", index_of(scene)) as url:
        more = {
            "UV_FIND_LINKS": "",
            "UV_DEFAULT_INDEX": f"{url}/simple",
            "UV_CACHE_DIR": str(scene.work / "empty-cache"),
        }
        command = [sys.executable, "-m", "verlock", *_words("wheels")]
        process = scene.start(command, **more, **scene.with_artefact(), UV_HTTP_TIMEOUT="20")
        uv = 0
        while not uv and process.poll() is None:
            time.sleep(0.02)
            for each in scenes.in_session(process.pid):
                with contextlib.suppress(OSError):
                    if b"sync" in Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0") and each != process.pid:
                        uv = each
        assert uv, "uv was not started"
        time.sleep(0.2)
        act(process, uv)  # type: ignore[operator]
        return scene.finish(process) if process.stdout else Seen(process.wait(), "")


def child_killed(step: str) -> Cell:
    """The kernel takes the largest child when memory is short."""

    def wheels(scene: Scene) -> Seen:
        return _while_uv_waits(scene, lambda process, uv: _kill(uv))

    def check(scene: Scene) -> Seen:
        with next(scene.work.glob("wheels/verl-*")).open("rb"):
            pass
        process = scene.held(_words(step), hold(step), **scene.with_artefact())
        scene.release()
        while process.poll() is None:
            for each in scenes.in_session(process.pid):
                with contextlib.suppress(OSError):
                    if AT["check"][1].encode() in Path(f"/proc/{each}/cmdline").read_bytes() and each != process.pid:
                        _kill(each)
        return scene.finish(process)

    return Cell(wheels, frozenset({24, 26})) if step == "wheels" else Cell(check, frozenset({27, 0}))


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(process, signal.SIGKILL)


def killed_alone(step: str) -> Cell:
    """verlock dies, and uv lives on for a while."""

    def do(scene: Scene) -> Seen:
        return _while_uv_waits(scene, _kill_leader)

    return Cell(do, frozenset({-9}), abrupt=True)


def _kill_leader(process: subprocess.Popen[bytes], uv: int) -> None:
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()
    process.stdout = None


def no_screen(step: str) -> Cell:
    """Whoever read its output has gone."""

    def do(scene: Scene) -> Seen:
        command = f"{sys.executable} -m verlock {' '.join(_words(step))} 2>&1 | true; exit ${{PIPESTATUS[0]}}"
        return scene.finish(scene.start(["bash", "-c", command], **scene.with_artefact()))

    return Cell(do, frozenset({0, 1, 141, 120}), _starts(step)[-1:])


def closed_screen(step: str) -> Cell:
    """It was started with standard output and error closed, as some daemons do."""

    def do(scene: Scene) -> Seen:
        command = f"{sys.executable} -m verlock {' '.join(_words(step))} >&- 2>&-"
        return scene.finish(scene.start(["bash", "-c", command], **scene.with_artefact()))

    return Cell(do, frozenset({0}), _starts(step)[-1:])
