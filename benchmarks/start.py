"""How long a command waits before it runs inside an environment: its own Python, bin/verlock-run and `verlock run`, in turns.

    python benchmarks/start.py vllm073

Needs the environment. Prints the median seconds of each, and their ratio to the environment's own Python.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from verlock.variant.chosen import choose

ROUNDS = 25


def seconds(command: list[str]) -> float:
    """How long one run of a command takes, to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def main(variant: str) -> None:
    """Measure in turns, so that what else the machine does falls on all of them."""
    chosen = choose(variant)
    inside = ["python", "-c", ""]
    ways = {
        "the environment's own Python": [str(chosen.prefix / "bin/python"), "-c", ""],
        "bin/verlock-run": [str(chosen.prefix / "bin/verlock-run"), *inside],
        "verlock run": [sys.executable, "-m", "verlock", "run", variant, "--", *inside],
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, command in ways.items():
            taken[name].append(seconds(command))
    first = statistics.median(taken["the environment's own Python"])
    for name, each in taken.items():
        print(f"{name}: {statistics.median(each):.3f} s, {statistics.median(each) / first:.2f} x")


if __name__ == "__main__":
    main(sys.argv[1])
