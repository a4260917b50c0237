"""From the first phase of a process inside an environment to its end."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NoReturn

from verlock.smoke.report import write_error
from verlock.smoke.watchdog import Heartbeat


def run(
    folder: Path,
    rank: int,
    limits: Mapping[str, float],
    work: Callable[[Heartbeat, Callable[[str], AbstractContextManager[None]]], None],
) -> NoReturn:
    """Do `work` and end this process: with 0, or with 1 where an error was written into `folder`.

    Args:
        folder: of the launch; what the watchdog reads is in it.
        rank: of this process.
        limits: seconds that a phase may take, by the first word of its name.
        work: is given the heartbeat, and what it names its phases with.
    """
    heart = Heartbeat(folder, rank)
    where = "start"

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        nonlocal where
        where = name
        with heart.phase(name, limits[name.split()[0]]):
            yield

    try:
        work(heart, phase)
    except BaseException as error:
        write_error(folder, rank, where, error)
        traceback.print_exc()
        _leave(1)
    heart.done()
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: vLLM's and NCCL's own clean-up at exit can hang, and everything that matters is on disk."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
