"""An engine for the benchmark's rehearsals: it makes no tokens, says what it is told to, and fails where a test planted it.

Its seconds are drawn, not waited for: `rate` tokens take one second. Plants come as `llm` arguments, as a recipe's would.
"""

from __future__ import annotations

import os
import signal
import time


class FakeEngine:
    def __init__(self, given):
        plants = given.get("plants", {})
        if plants.get("start"):
            raise RuntimeError(plants["start"])
        with open(os.environ["FAKE_STARTS"], "a") as file:  # noqa: PTH123
            file.write(f"{plants.get('kind', 'V0')} {'eager' if given['enforce_eager'] else 'graphs'}\n")
        self.plants = plants
        self.kind, self.version = plants.get("kind", "V0"), "0.0.fake"
        self.start_seconds = 12.0
        self.capture_seconds = None if given["enforce_eager"] else 3.0
        self.rate = plants.get("rate", 1000.0) * (1.0 if given["enforce_eager"] else 1.25)
        self.calls = {}
        self.levels = []

    def generate(self, asks, job):
        call = self.calls[job.name] = self.calls.get(job.name, -1) + 1  # 0 is the warm-up
        assert call or max(new for _, new in asks) <= 64 * 4, "the warm-up is short"
        for plant, at in self.plants.items():
            if at == [job.name, call]:
                self.fail(plant)
        counts = [[new] * job.n for _, new in asks]
        if self.plants.get("short") == [job.name, call]:
            counts[-1][-1] -= 1
        if self.plants.get("logprobs") == [job.name, call]:
            counts[0][0] = -1
        seconds = sum(map(sum, counts)) / self.rate
        return seconds * (3.0 if self.plants.get("burst") == [job.name, call] else 1.0), counts

    def fail(self, plant):
        if plant == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if plant == "memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        if plant == "stall":
            time.sleep(60)

    def load(self, weights):
        names = [name for name, _ in weights]
        assert names, "nothing to load"
        self.loaded = [*getattr(self, "loaded", []), *names]

    def sleep(self, level):
        self.levels.append(level)

    def wake(self):
        assert self.levels
