"""Faults by bad data: samples of each file that verlock reads. And two runs at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import scene as scenes
from judge import Cell
from scene import Scene, Seen
from signals import hold

from verlock.system import uv

CONFLICT = b"<<<<<<< HEAD\n=======\n>>>>>>> other\n"


def _place(scene: Scene, name: str) -> Path:
    places = {
        "recipe": scene.project.recipe,
        "requirements": scene.project.locks / "requirements.txt",
        "build": scene.project.locks / "build-requirements.txt",
        "conda": scene.project.locks / "conda-lock.yml",
        "sources": scene.project.locks / "sources.json",
        "patch": scene.project.recipe.parent / "patches/0001-Toy.patch",
        "receipt": scene.prefix / "verlock.json",
    }
    return places[name]


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old in data, old
        return data.replace(old, new, 1)

    return change


def content(new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: new


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def conflict(data: bytes) -> bytes:
    return CONFLICT + data


def binary(data: bytes) -> bytes:
    return b"\xff\xfe\x00" + data


def other_hash(data: bytes) -> bytes:
    at = data.index(b"sha256:") + 7 if b"sha256:" in data else 0
    return data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]


def _changed(scene: Scene, name: str, change: Callable[[bytes], bytes] | None) -> None:
    path = _place(scene, name)
    (scene.work / "kept").write_bytes(path.read_bytes())
    if change:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()


def bad(
    name: str, change: Callable[[bytes], bytes] | None, *codes: int, words: str = "create", early: bool = False
) -> Cell:
    """One file with this content (None: it is missing): refused in words, and nothing that is there is touched.

    early: refused before anything is installed.
    """

    def do(scene: Scene) -> Seen:
        _changed(scene, name, change)
        seen = scene.create(**scene.with_artefact()) if words == "create" else scene.run(words, "toy")
        if early and seen.code and "wheels  " in seen.said:
            seen = Seen(seen.code, f"{seen.said}\nTraceback: it was found only after the wheels were installed (D12)")
        return seen

    def lift(scene: Scene) -> None:
        _place(scene, name).write_bytes((scene.work / "kept").read_bytes())

    # while a lock or recipe is broken, verify cannot answer 0
    return Cell(do, frozenset(codes), ("older",), damaged=frozenset({10, 11, 12, 33, 35, 40, 41}), lift=lift)


def bad_receipt(change: Callable[[bytes], bytes] | None, words: str) -> Cell:
    """A receipt that is none: no environment. `verify` says so, `create` makes it again."""

    def do(scene: Scene) -> Seen:
        _changed(scene, "receipt", change)
        return scene.verify() if words == "verify" else scene.create(**scene.with_artefact())

    codes = frozenset({40}) if words == "verify" else frozenset({0})
    return Cell(do, codes, ("whole",), damaged=frozenset({40}) if words == "verify" else frozenset())


def edited_receipt(edit: Callable[[dict[str, object]], object], *codes: int) -> Cell:
    """A receipt that is whole in form but not true."""

    def do(scene: Scene) -> Seen:
        path = _place(scene, "receipt")
        sealed = json.loads(path.read_text())
        edit(sealed)
        path.write_text(json.dumps(sealed))
        return scene.verify()

    return Cell(do, frozenset(codes), ("whole",), damaged=frozenset(codes))


def words(*command: str, codes: tuple[int, ...]) -> Cell:
    """A command line that asks for what there is not."""
    return Cell(lambda scene: scene.run(*command), frozenset(codes), ("whole",))


# Two at once ----------------------------------------------------------------------------------------


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "verlock", *words]


def two_runs(first: tuple[str, ...], second: tuple[str, ...], start: str, codes: tuple[int, ...] = (0,)) -> Cell:
    """Both at the same time; the worse of their exit codes counts."""

    def do(scene: Scene) -> Seen:
        runs = [scene.start(_command(*words), **scene.with_artefact()) for words in (first, second)]
        seen = [scene.finish(each) for each in runs]
        worst = max((each.code if each.code is not None else 999) for each in seen)
        return Seen(None if worst == 999 else worst, "\n".join(each.said for each in seen))

    return Cell(do, frozenset(codes), (start,), quick=first == second)


def second_waits(end: signal.Signals | None) -> Cell:
    """The second waits while the first is held; the first goes on, or dies."""

    def do(scene: Scene) -> Seen:
        order = {"do": "hold", "event": "subprocess.Popen", "text": " sync "}
        create = ("create", "toy", "--base", "host")
        first = scene.held(create, order, **scene.with_artefact())
        second = scene.start(_command(*create), **scene.with_artefact())
        time.sleep(0.6)
        waits = second.poll() is None
        os.killpg(first.pid, end) if end else scene.release()
        scene.finish(first)
        seen = scene.finish(second)
        return seen if waits else Seen(seen.code, f"{seen.said}\nTraceback: the second did not wait")

    return Cell(do, frozenset({0}), ("older",), says=("another run is working",))


def interrupt_the_waiting() -> Cell:
    def do(scene: Scene) -> Seen:
        order = {"do": "hold", "event": "subprocess.Popen", "text": " sync "}
        create = ("create", "toy", "--base", "host")
        first = scene.held(create, order, **scene.with_artefact())
        second = scene.start(_command(*create), **scene.with_artefact())
        time.sleep(0.6)
        os.killpg(second.pid, signal.SIGINT)
        seen = scene.finish(second)
        scene.release()
        done = scene.finish(first)
        return seen if done.code == 0 else done

    return Cell(do, frozenset({130}), ("older",))


def verify_while_made() -> Cell:
    """`verify` while another run makes the environment: it says that none is there, or waits, but vouches for nothing."""

    def do(scene: Scene) -> Seen:
        first = scene.held(("create", "toy", "--base", "host"), hold("check"), **scene.with_artefact())
        verify = scene.start(_command("verify", "toy"))
        time.sleep(1.0)
        scene.release()
        seen = scene.finish(verify)
        done = scene.finish(first)
        return done if seen.code in (0, 40) else seen

    return Cell(do, frozenset({0}), ("fresh",))


def cache_held() -> Cell:
    """Another uv holds the cache, as `uv run` does for as long as its program runs."""

    def do(scene: Scene) -> Seen:
        other = subprocess.Popen(
            [uv.uv(), "run", "--no-project", "--python", sys.executable, "sleep", "60"],
            env=scene.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            time.sleep(1)
            path = scene.site / "torch/lib/libtorch_python.so"
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            with path.open("r+b") as file:
                file.write(data)
            return scene.create(**scene.with_artefact())
        finally:
            scenes.end_session(other.pid)
            other.wait()

    return Cell(do, frozenset({0}), ("whole",))
