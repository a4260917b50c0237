"""How long locking takes, beside plain pip-compile from nothing: medians.

    .nox/tools/bin/python benchmarks/lock.py [--runs 5] [--all-runs 3] [--peer-runs 1] [--peer-limit 1800] [--out FILE]

Run it with the Python of verlock's tools, on a clone whose locks are current, with the index in reach: a no-change lock is a
true re-resolution. Every run must leave every byte of locks/ as it was. The peer is `pip-compile --generate-hashes` of vllm073
with the same cut-off, wheels only and pip's own cache empty; above its limit it is stopped and reported as not finished.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from verlock.locking import resolvers  # noqa: E402
from verlock.system import package_index  # noqa: E402
from verlock.variant.chosen import choose, names  # noqa: E402

VARIANT = "vllm073"


def state() -> str:
    """One hash over all bytes of locks/."""
    total = hashlib.sha256()
    for path in sorted((ROOT / "locks").rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return total.hexdigest()


def timed(arguments: list[str], runs: int) -> list[float]:
    """Seconds of each run of one verlock command; a failure, or a changed byte, ends the benchmark."""
    seconds = []
    before = state()
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "verlock", *arguments], check=True, cwd=ROOT, capture_output=True)
        seconds.append(time.perf_counter() - start)
        assert state() == before, f"{arguments} changed locks/"
    return seconds


def peer(runs: int, limit: float) -> list[float | None]:
    """Seconds of plain pip-compile from nothing; None where it did not finish within the limit."""
    chosen = choose(VARIANT)
    python = resolvers.interpreter(chosen.python)
    options = " ".join(["--only-binary :all:", *(f"--no-binary {name}" for name in chosen.pip_layer().sdists)])
    seconds: list[float | None] = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                str(python),
                "-m",
                "piptools",
                "compile",
                "--quiet",
                "--no-config",
                "--generate-hashes",
                "--allow-unsafe",
            ]
            command += [
                "--strip-extras",
                "--index-url",
                package_index.upstream(),
                "--cache-dir",
                f"{folder}/pip-tools",
            ]
            command += ["--uploaded-prior-to", f"{chosen.recipe.cutoff.date}T00:00:00Z", "--pip-args", options]
            command += [f"environments/{VARIANT}/requirements.in", "--output-file", f"{folder}/requirements.txt"]
            variables = resolvers.environment(PIP_CACHE_DIR=f"{folder}/pip")
            variables.pop("PIP_NO_CACHE_DIR")
            start = time.perf_counter()
            try:
                subprocess.run(command, check=True, cwd=ROOT, capture_output=True, env=variables, timeout=limit)
                seconds.append(time.perf_counter() - start)
            except subprocess.TimeoutExpired:
                seconds.append(None)
    return seconds


def main() -> int:
    """Run, print a Markdown table, write the raw seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of `lock --check`, and of a no-change lock of one variant")
    parser.add_argument("--all-runs", type=int, default=3, help="of a no-change lock of everything")
    parser.add_argument("--peer-runs", type=int, default=1)
    parser.add_argument("--peer-limit", type=float, default=1800.0, help="seconds")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    variants = names()
    pythons = len(choose(VARIANT).pythons())
    locks = sum(len(choose(name).pythons()) for name in variants)
    results: dict[str, list[float | None]] = {
        f"`verlock lock --check`, {len(variants)} variants": [*timed(["lock", "--check"], options.runs)],
        f"`verlock lock {VARIANT}`, nothing changed ({pythons} Pythons)": [*timed(["lock", VARIANT], options.runs)],
        f"`verlock lock`, nothing changed ({locks} locks and the tools)": [*timed(["lock"], options.all_runs)],
        f"plain `pip-compile --generate-hashes` of {VARIANT} from nothing (1 Python)": peer(
            options.peer_runs, options.peer_limit
        ),
    }
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {cores} cores, CPython {platform.python_version()}\n")
    print("| command | median, s | runs |\n|---|---|---|")
    for name, seconds in results.items():
        done = [value for value in seconds if value is not None]
        median = f"{statistics.median(done):.2f}" if done else f"not finished in {options.peer_limit:.0f}"
        print(f"| {name} | {median} | {len(seconds)} |")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
