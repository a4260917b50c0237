"""How long verlock takes beside bare uv on the same lock, in one run: medians, and the ratio that matters.

    .nox/tools/bin/python benchmarks/create.py [--variant vllm073] [--runs 5] [--cold-runs 5] [--out FILE]

Run it with the Python of verlock's tools and nox on PATH. Needs a host CPython of the variant's first version: both sides get
the host base. For each cold run 3 to 5 GB are downloaded twice, into caches of their own: from the index, or with
`--files` from the wheels of a bundle, as fast as `--line` says (benchmarks/local_index.py). Prints a Markdown table and writes
the raw seconds as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import local_index  # noqa: E402

from verlock.system import host_python, uv  # noqa: E402
from verlock.variant.chosen import choose  # noqa: E402

STEP = re.compile(r"^  (\w+) .*: (\d+\.\d) s$", re.MULTILINE)  # as verlock says it, where it writes to no terminal
# verlock that reads no file: what the hashing costs is the time that a whole run takes beside this one
UNHASHED = """
import sys
from verlock.cli import main
from verlock.env import hashing, verify
hashing.Hashed.watch = hashing.Hashed.hurry = hashing.Hashed.begin = lambda *_: None
verify._files = lambda *_: []
sys.exit(main())
"""


class Bench:
    """One working folder on the file system of uv's cache, so that both sides can hardlink."""

    def __init__(self, folder: Path, variant: str, line: float | None = None) -> None:
        self.folder = folder
        self.line = line
        self.variant = variant
        self.layer = choose(variant).pip_layer()
        python = choose(variant).python
        found = host_python.find(python)
        assert found, f"no CPython {python} here"
        self.python = found.executable
        self.seconds: dict[str, list[float]] = {}

    def verlock(self, *arguments: str, cache: str = "warm", hashed: bool = True) -> list[str]:
        """The command line of one verlock command."""
        os.environ["VERLOCK_ENVS"] = str(self.folder / "verlock")
        self._caches(cache)
        return [sys.executable, *(("-m", "verlock") if hashed else ("-c", UNHASHED)), *arguments]

    def sync(self, cache: str = "warm") -> list[str]:
        """The command line of bare uv on the same lock."""
        self._caches(cache)
        return [
            *(
                uv.uv(),
                "pip",
                "sync",
                "--quiet",
                "--python",
                str(self.folder / "uv/bin/python"),
                "--require-hashes",
            ),
            *("--only-binary", ":all:", *(word for name in self.layer.sdists for word in ("--no-binary", name))),
            *("--build-constraints", str(self.layer.build_requirements), str(self.layer.requirements)),
        ]

    def venv(self) -> list[str]:
        """The command line that makes bare uv's environment."""
        return [uv.uv(), "venv", "--quiet", "--python", str(self.python), str(self.folder / "uv")]

    def hash_all(self, name: str) -> list[str]:
        """The command line that hashes all files of an environment on all cores, as a shell does it."""
        files = f"find {self.folder / name}/lib -type f ! -name '*.pyc' -print0"
        return ["sh", "-c", f"{files} | xargs -0 -P{os.cpu_count()} -n 400 sha256sum"]

    def time(self, name: str, *commands: list[str]) -> None:
        """Run the commands one after the other and note their seconds in all; what others wrote is on the disk by then."""
        os.sync()
        start = time.perf_counter()
        said = ""
        for command in commands:
            done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            said += done.stderr.decode()
        seconds = time.perf_counter() - start
        self.seconds.setdefault(name, []).append(seconds)
        print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        for step, took in STEP.findall(said):
            self.seconds.setdefault(f"{name}: {step}", []).append(float(took))

    def median(self, name: str) -> float:
        """The middle one of the times of one thing, in seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self) -> list[dict[str, Any]]:
        """The pairs of which both sides were timed, each with its ratio."""
        return [
            {"ours": ours, "peer": peer, "ratio": self.median(ours) / self.median(peer), "aim": aim}
            for ours, peer, aim in PAIRS
            if ours in self.seconds and peer in self.seconds
        ]

    def write(self, out: Path) -> None:
        """Write the JSON of what was timed so far."""
        machine = {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": sys.version,
            "line_megabit": self.line,  # None: as fast as index and network are
        }
        result = {"variant": self.variant, "machine": machine, "ratios": self.ratios(), "seconds": self.seconds}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")

    def remove(self, *names: str) -> None:
        """Forget environments or caches of an earlier round."""
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _caches(self, cache: str) -> None:
        os.environ["UV_CACHE_DIR"] = str(self.folder / f"uv-cache-{cache}")
        os.environ["VERLOCK_CACHE"] = str(self.folder / f"verlock-cache-{cache}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="vllm073")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold-runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "create.json")
    parser.add_argument(
        "--built", metavar="VARIANT", help="also a variant built from source, beside vllm073 (v1; takes its git URL)"
    )
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument(
        "--files", type=Path, metavar="FOLDER", help="take wheels and sdists from here, not from the index"
    )
    parser.add_argument("--line", type=float, metavar="MEGABIT", help="with --files: so many megabit a second, no more")
    arguments = parser.parse_args()
    if arguments.line and not arguments.files:
        parser.error("--line is for --files")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, contextlib.ExitStack() as stack:
        if arguments.files:
            line = local_index.Line(arguments.line) if arguments.line else None
            os.environ["UV_DEFAULT_INDEX"] = stack.enter_context(local_index.serve(arguments.files, line))
        bench = Bench(Path(name), arguments.variant, arguments.line)
        measure_cold(bench, arguments.cold_runs, arguments.out)
        if arguments.runs:
            measure(bench, arguments.runs)
        if arguments.built:
            measure_built(bench, arguments.built, arguments.runs)
    bench.write(arguments.out)
    report(bench)


def measure_cold(bench: Bench, runs: int, out: Path) -> None:
    """With empty caches, both sides in turn; that everything imports is proven by one more run, the first."""
    create = ("create", bench.variant, "--base", "host")
    proofs, kept = bench.folder / "verlock-cache-cold/imports", bench.folder / "imports"
    if runs:
        bench.time("cold: verlock create", bench.verlock(*create, cache="cold"))
        assert any(proofs.iterdir()), "the import proof is not there"
        proofs.rename(kept)
    for number in range(runs):
        # in turn: the place that serves may answer the second one faster
        for ours in (number % 2 == 1, number % 2 == 0):
            bench.remove("verlock", "uv", "uv-cache-cold", "verlock-cache-cold")
            if ours:
                shutil.copytree(kept, proofs)
                bench.time("cold, imports proven: verlock create", bench.verlock(*create, cache="cold"))
            else:
                bench.time("cold: uv venv + pip sync", bench.venv(), bench.sync("cold"))
        bench.write(out)
    bench.remove("verlock", "uv", "uv-cache-cold", "verlock-cache-cold")


def measure(bench: Bench, runs: int) -> None:
    """With everything cached: all pairs, taken in turn so that a drift of the machine meets both sides."""
    create = ("create", bench.variant, "--base", "host")
    hashes = bench.hash_all("uv")
    subprocess.run(bench.verlock(*create), check=True, cwd=ROOT, stderr=subprocess.DEVNULL)  # fills the caches
    for _ in range(runs):
        bench.remove("verlock", "uv")
        bench.time("warm: uv venv + pip sync", bench.venv(), bench.sync())
        bench.remove("uv")
        bench.time("warm: uv venv + pip sync + sha256sum", bench.venv(), bench.sync(), hashes)
        bench.time("warm: verlock create", bench.verlock(*create))
        bench.remove("verlock")
        bench.time("warm: verlock create, without the hashes", bench.verlock(*create, hashed=False))
    bench.remove("verlock", "uv")
    subprocess.run(bench.verlock(*create), check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    for command in (bench.venv(), bench.sync()):
        subprocess.run(command, check=True, cwd=ROOT)
    nox = ["nox", "-s", f"env-{bench.variant}", "--", "--base", "host"]
    subprocess.run(nox, check=True, cwd=ROOT, capture_output=True)  # makes verlock's tools where they are not there
    for _ in range(runs):
        bench.time("no-op: uv pip sync", bench.sync())
        bench.time("no-op: verlock create", bench.verlock(*create))
        bench.time("no-op: nox -s env", nox)
    everything = bench.hash_all(f"verlock/{bench.variant}")
    for _ in range(runs):
        bench.time("verify: sha256sum, all cores", everything)
        bench.time("verify: verlock verify", bench.verlock("verify", bench.variant))


def measure_built(bench: Bench, variant: str, runs: int) -> None:
    """A variant built from source, its wheel cached, in turn with the plain one."""
    options = ("--base", "host", "--quiet")
    subprocess.run(bench.verlock("create", variant, *options), check=True, cwd=ROOT, stderr=subprocess.DEVNULL)
    for _ in range(runs):
        bench.remove("verlock")
        bench.time("warm: verlock create, from wheels", bench.verlock("create", bench.variant, *options))
        bench.time("warm: verlock create, built from source", bench.verlock("create", variant, *options))


PAIRS: list[tuple[str, str, float]] = [
    ("cold: verlock create", "cold: uv venv + pip sync", 1.15),
    ("cold, imports proven: verlock create", "cold: uv venv + pip sync", 1.1),
    ("warm: verlock create", "warm: uv venv + pip sync + sha256sum", 0.4),
    ("warm: verlock create, without the hashes", "warm: uv venv + pip sync", 1.5),
    ("no-op: verlock create", "no-op: uv pip sync", 1.0),
    ("no-op: nox -s env", "no-op: uv pip sync", 1.0),
    ("warm: verlock create, built from source", "warm: verlock create, from wheels", 1.3),
    ("verify: verlock verify", "verify: sha256sum, all cores", 1.5),
]


def report(bench: Bench) -> None:
    """Print the table."""
    print("| | verlock, s | peer, s | ratio | aim |\n|---|---|---|---|---|")
    for each in bench.ratios():
        ours, peer = bench.median(each["ours"]), bench.median(each["peer"])
        print(f"| {each['ours']} / {each['peer']} | {ours:.2f} | {peer:.2f} | {each['ratio']:.2f} | {each['aim']} |")
    steps = [name for name in bench.seconds if name.startswith("warm: verlock create: ")]
    if steps:
        listed = ", ".join(f"{name.split()[-1]} {bench.median(name):.1f} s" for name in steps)
        print(f"\nsteps of the warm create: {listed}")


if __name__ == "__main__":
    main()
