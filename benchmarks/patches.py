"""How long patching takes: apply all patches of a variant and check them, median of five, on the released files.

    python benchmarks/patches.py [VARIANT ...]

The released package comes out of uv's cache (or index) into a scratch folder; each round starts from hardlinks of it. The
aim is 0.3 s for a variant, imports and reading the recipe aside.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from verlock.sources import patches, wheel_store
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen, choose, names

ROUNDS = 5
AIM = 0.3


def measure(chosen: Chosen) -> tuple[float, float, float]:
    """Median seconds to apply, to check what is applied, and to apply again (nothing to do)."""
    variant = chosen.recipe
    locked = lockfiles.sources(chosen.locks)
    rounds = []
    with wheel_store.scratch("bench") as work:
        for package in {patch.package for patch in variant.patch}:
            wheel_store.unpack(package, chosen.pip_layer().requirements, chosen.python, work / "released")
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory(dir=work) as folder:
                site = Path(folder) / "lib/python3/site-packages"
                for path in (work / "released").rglob("*"):
                    if path.is_file():
                        target = site / path.relative_to(work / "released")
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.hardlink_to(path)
                times = []
                for step in (patches.apply, patches.states, patches.apply):
                    start = time.perf_counter()
                    step(variant, site, locked)
                    times.append(time.perf_counter() - start)
                assert {state.outcome for state in patches.states(variant, site, locked)} == {patches.Outcome.APPLIED}
                rounds.append(times)
        shutil.rmtree(work / "released")
    apply, check, again = (statistics.median(column) for column in zip(*rounds, strict=True))
    return apply, check, again


def main() -> int:
    """Print a line for each patched release. Returns 1 where one is slower than the aim."""
    slow = False
    for name in sys.argv[1:] or names():
        chosen = choose(name)
        if not chosen.recipe.patch or chosen.recipe.source is not None:  # a built wheel has its patches in it
            continue
        apply, check, again = measure(chosen)
        print(f"{name}: apply {apply:.3f} s, check {check:.3f} s, apply again {again:.3f} s")
        slow |= apply + check > AIM
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
