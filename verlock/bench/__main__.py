"""One launch of the benchmark: `python -m verlock.bench CONFIG`, where CONFIG is JSON written by verlock.proving.bench_launch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

from verlock.bench import runner
from verlock.smoke import lifetime

# Seconds a phase may take, by its first word. The slowest engine start seen took 74 s, the slowest iteration 32 s.
LIMITS = {"imports": 240.0, "hardware": 60.0, "engine": 400.0, "job": 300.0}


def main(config: dict[str, Any]) -> NoReturn:
    """Measure what the configuration asks for and end this process; results are in the files that it names."""
    limits = {**LIMITS, **config.get("limits", {})}
    lifetime.run(Path(config["folder"]), 0, limits, lambda heart, phase: runner.run(config, phase))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
