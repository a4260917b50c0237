"""Turns a hang into a failure with every rank's stack. Standard library only: it runs inside and outside the environment.

Inside, every rank writes where it is and for how long that may take (`Heartbeat`). Outside, `supervise` starts the run in a
process group of its own and looks at what the ranks write; when one is late it asks every rank for its stacks (SIGUSR1, which
faulthandler answers even inside a blocked C call), then ends the group. A rank whose supervisor is gone ends itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Seconds a phase of a rank may take. An engine with CUDA graphs started in 74 s; gates take a few seconds each.
LIMITS = {"imports": 240.0, "trainer": 120.0, "engine": 300.0, "gate": 90.0, "last": 60.0}
ALONE = 60.0  # a rank that nobody ended ends itself this many seconds after its limit
FIRST_BEAT = 240.0  # seconds, including the import of torch from a cold disk


class Heartbeat:
    """One rank's record of where it is: `heartbeat-<rank>.json` in the run's folder, stacks in `stacks-<rank>.txt`."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"heartbeat-{rank}.json"
        self._rank = rank
        self._stacks = (folder / f"stacks-{rank}.txt").open("w", encoding="utf-8")
        faulthandler.enable(self._stacks, all_threads=True)
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
        self.phases: list[tuple[str, float, float]] = []

    @contextlib.contextmanager
    def phase(self, name: str, limit: float) -> Iterator[None]:
        """Everything inside must be over in `limit` seconds."""
        start = time.monotonic()
        self._write(name, limit)
        faulthandler.dump_traceback_later(limit + ALONE, exit=True, file=self._stacks)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.phases.append((name, time.monotonic() - start, limit))

    def done(self) -> None:
        """This rank has nothing more to do."""
        self._write("done", FIRST_BEAT)

    def _write(self, name: str, limit: float) -> None:
        text = json.dumps({"rank": self._rank, "pid": os.getpid(), "phase": name, "limit": limit, "since": time.time()})
        beside = self._path.with_suffix(".new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self._path)


@dataclass
class Outcome:
    """How a supervised run ended."""

    code: int
    seconds: float
    hung: bool = False
    phase: str = ""
    silence: float = 0.0
    limit: float = 0.0
    stacks: dict[int, str] = field(default_factory=dict)


def supervise(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, first: float = FIRST_BEAT
) -> Outcome:
    """Run `command` to its end, or until a rank exceeds the limit it wrote down.

    Args:
        command: program and arguments; every rank it starts keeps a Heartbeat in `folder`.
        environment: the whole environment of the run.
        folder: where heartbeats and stacks are.
        log: gets everything the run prints.
        first: seconds until the first heartbeat must be there.
    """
    start = time.monotonic()
    began = time.time()
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            env=dict(environment),
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                time.sleep(0.1)
                if late := _late(beats(folder), began, first):
                    return _end_hung(child, folder, late, start)
        except BaseException:
            _end(child, folder)
            raise
    return Outcome(child.returncode, time.monotonic() - start)


def beats(folder: Path) -> list[dict[str, Any]]:
    """The newest heartbeat of every rank."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("heartbeat-*.json"))]


def _late(found: Sequence[Mapping[str, Any]], began: float, first: float) -> dict[str, Any] | None:
    now = time.time()
    if not found:
        return {"phase": "start", "limit": first, "since": began} if now - began > first else None
    late = [dict(beat) for beat in found if beat["phase"] != "done" and now - beat["since"] > beat["limit"]]
    return min(late, key=lambda beat: float(beat["since"]), default=None)


def _end_hung(child: subprocess.Popen[bytes], folder: Path, late: Mapping[str, Any], start: float) -> Outcome:
    found = beats(folder)
    for beat in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(beat["pid"], signal.SIGUSR1)
    time.sleep(1.0)  # a signal handler writes the stacks and does not say when it is done
    stacks = {
        beat["rank"]: (folder / f"stacks-{beat['rank']}.txt").read_text(encoding="utf-8", errors="replace")
        for beat in found
    }
    _end(child, folder)
    return Outcome(
        code=-signal.SIGKILL,
        seconds=time.monotonic() - start,
        hung=True,
        phase=late["phase"],
        silence=time.time() - late["since"],
        limit=late["limit"],
        stacks=stacks,
    )


def _end(child: subprocess.Popen[bytes], folder: Path) -> None:
    """End the launcher and every rank: torchrun gives each a process group of its own, and a rank stuck in a collective does
    not react to SIGTERM."""
    if child.poll() is None:
        # The process number of a rank that is gone can go to another process; while the launcher lives, its children keep theirs.
        for beat in beats(folder):
            _kill_group(beat["pid"])
    _kill_group(child.pid)
    child.wait()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
