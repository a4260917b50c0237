"""How long a bundle takes beside copying its bytes, and an environment from it beside bare uv on the same wheels.

    python benchmarks/bundle.py [vllm073] [--runs 3] [--folder FOLDER]

Run it with the Python of verlock's tools, in a clone with nothing uncommitted, with an index or the wheel store at hand. Needs a
host CPython of the variant's version, and room in FOLDER for the bundle, a copy of it, and an environment with caches. The two
sides of each pair take turns; every environment is made with empty caches. Prints a Markdown table: medians, and the ratio.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from verlock.system import uv  # noqa: E402
from verlock.variant.chosen import choose  # noqa: E402

CHECK = re.compile(r"^  check .*: (\d+\.\d) s$", re.MULTILINE)  # hashing, and importing meanwhile: bare uv does neither


class Bench:
    """The four things that are timed, in one folder."""

    def __init__(self, variant: str, folder: Path) -> None:
        self.chosen, self.folder = choose(variant), folder
        self.bundle, self.copy = folder / "bundle", folder / "copy"

    def _timed(self, command: list[str], **more: str) -> tuple[float, str]:
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **more}, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(done.stderr)
        return seconds, done.stderr

    def bundled(self) -> float:
        """Seconds of `verlock bundle` into an empty folder, where the wheel store holds all."""
        shutil.rmtree(self.bundle, ignore_errors=True)
        words = ["bundle", self.chosen.name, "--base", "host", "--to", str(self.bundle)]
        return self._timed([sys.executable, "-m", "verlock", *words])[0]

    def copied(self) -> float:
        """Seconds of `cp -r` of the same bytes."""
        shutil.rmtree(self.copy, ignore_errors=True)
        seconds, _ = self._timed(["cp", "-r", str(self.bundle), str(self.copy)])
        shutil.rmtree(self.copy)
        return seconds

    def created(self) -> tuple[float, float]:
        """Seconds of `verlock create --from`, less its step check, and of that step."""
        self._clear()
        caches = {"UV_CACHE_DIR": str(self.folder / "uv"), "VERLOCK_CACHE": str(self.folder / "cache")}
        words = ["create", self.chosen.name, "--from", str(self.bundle), "--offline"]
        places = {**caches, "VERLOCK_ENVS": str(self.folder / "envs")}
        seconds, said = self._timed([sys.executable, "-m", "verlock", *words], **places)
        found = CHECK.search(said)
        assert found, said
        return seconds - float(found[1]), float(found[1])

    def bare(self) -> float:
        """Seconds of `uv venv` and `uv pip sync` of the same wheels."""
        python = next((self.folder / "envs/.python").glob(f"*/bin/python{self.chosen.python}"))
        kept = self.folder / "python"
        if not kept.exists():
            shutil.copytree(python.parent.parent, kept, symlinks=True)
        self._clear()
        layer, prefix = self.chosen.pip_layer(), self.folder / "envs/bare"
        more = {"UV_CACHE_DIR": str(self.folder / "uv")}
        seconds, _ = self._timed(
            [uv.uv(), "venv", "--quiet", "--python", str(kept / "bin" / python.name), str(prefix)], **more
        )
        words = [
            "--offline",
            "--no-index",
            "--find-links",
            str(self.bundle / "wheels"),
            "--require-hashes",
            "--only-binary",
            ":all:",
        ]
        words += [word for name in layer.sdists for word in ("--no-binary", name)]
        words += ["--build-constraints", str(layer.build_requirements), str(layer.requirements)]
        synced, _ = self._timed(
            [uv.uv(), "pip", "sync", "--quiet", "--python", str(prefix / "bin/python"), *words], **more
        )
        return seconds + synced

    def _clear(self) -> None:
        for name in ("envs", "uv", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("variant", nargs="?", default="vllm073")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where there is room (default: a temporary folder)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="bench-bundle-", ignore_cleanup_errors=True) as folder:
        bench = Bench(given.variant, Path(folder))
        bench.bundled()  # fills the store
        taken: dict[str, list[float]] = {"bundle": [], "copy": [], "create": [], "bare": [], "check": []}
        for _ in range(given.runs):
            taken["bundle"].append(bench.bundled())
            taken["copy"].append(bench.copied())
            create, check = bench.created()
            taken["create"].append(create)
            taken["check"].append(check)
            taken["bare"].append(bench.bare())
    middle = {name: statistics.median(each) for name, each in taken.items()}
    print("| | verlock | peer | ratio |\n|---|---|---|---|")
    for name, peer, what in (
        ("bundle", "copy", "bundle, wheels in the store; `cp -r`"),
        ("create", "bare", "environment; bare uv"),
    ):
        print(f"| {what} | {middle[name]:.1f} s | {middle[peer]:.1f} s | {middle[name] / middle[peer]:.2f} |")
    print(
        f"\nNot in it: {middle['check']:.1f} s for hashing and importing."
        f" Load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    )
    print(f"Each: {taken}")


if __name__ == "__main__":
    main()
