"""One launch of the benchmark: `python -m verlock.bench CONFIG`, where CONFIG is JSON written by verlock.proving.bench_launch."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from verlock.bench import runner
from verlock.smoke.report import write_error
from verlock.smoke.watchdog import Heartbeat

# Seconds a phase may take, by its first word. The slowest engine start seen took 74 s, the slowest iteration 32 s.
LIMITS = {"imports": 240.0, "hardware": 60.0, "engine": 400.0, "job": 300.0}


def main(config: dict[str, Any]) -> NoReturn:
    """Measure what the configuration asks for and end this process; results are in the files that it names."""
    folder = Path(config["folder"])
    limits = {**LIMITS, **config.get("limits", {})}
    heart = Heartbeat(folder, 0)
    where = "start"

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        nonlocal where
        where = name
        with heart.phase(name, limits[name.split()[0]]):
            yield

    try:
        runner.run(config, phase)
    except BaseException as error:
        write_error(folder, 0, where, error)
        traceback.print_exc()
        _leave(1)
    heart.done()
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once: vLLM's and NCCL's own clean-up at exit can hang, and everything that matters is on disk."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
