"""Measures the cells of one launch: one engine, several jobs. Each cell's file is written again after every iteration."""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from verlock.bench import floor, hardware, jobs, loop_costs, profile
from verlock.bench.engine import SLOTS, Engine, arguments
from verlock.bench.jobs import Job
from verlock.bench.shapes import Shape
from verlock.smoke.report import write_json

WARM_UP = 64  # new tokens: every batch size and kernel of the job, in a fraction of its time

Phase = Callable[[str], AbstractContextManager[None]]


class WrongTokens(RuntimeError):
    """An engine did other work than it was asked for, so its time says nothing."""


def run(config: dict[str, Any], phase: Phase) -> None:
    """Start the engine and measure all jobs, in order.

    Args:
        config: as `verlock.proving.bench_launch.configuration` makes it.
        phase: what the process is doing, for the watchdog.

    Raises:
        WrongTokens: not the tokens asked for, or logprobs are missing.
    """
    shape = Shape(**config["shape"])
    on_gpu = config["device"] == "cuda"
    with phase("imports"):
        module, name = config["engine"].split(":")
        make = getattr(importlib.import_module(module), name)
    with phase("hardware"):
        card = _card() if on_gpu else config["hardware"]
    began = time.perf_counter()
    given = arguments(Path(config["model"]), config["mode"], config["llm"])
    with phase("engine"):
        engine: Engine = make(given)
    head = {
        **config["head"],
        "vllm": engine.version,
        "engine": engine.kind,
        "hardware": card,
        "arguments": {key: value for key, value in given.items() if key not in ("model", "tokenizer")},
        "engine_seconds": engine.start_seconds,
        "capture_seconds": engine.capture_seconds,
        "launch_seconds": time.perf_counter() - began,
    }
    for each in config["jobs"]:
        cell = Cell(engine, shape, Job(**_tuples(each["job"])), each, config, phase)
        cell.data |= head
        cell.measure()


def _card() -> dict[str, float]:
    """The copy bandwidth and matrix throughput of the card that the engine will have."""
    import torch

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return hardware.measured()


def _tuples(job: dict[str, Any]) -> dict[str, Any]:
    """A job as JSON brings it, which knows no tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in job.items()}


class Cell:
    """One job on one engine, and its result file."""

    def __init__(
        self, engine: Engine, shape: Shape, job: Job, asked: dict[str, Any], config: dict[str, Any], phase: Phase
    ) -> None:
        self._engine, self._shape, self._job, self._phase = engine, shape, job, phase
        self._file, self._times, self._first = Path(asked["file"]), int(asked["iterations"]), int(asked["first"])
        self._device, self._uuid = str(config["device"]), str(config["uuid"])
        self.data: dict[str, Any] = {**asked["head"], "complete": False}

    def measure(self) -> None:
        """Measure it and write the file, which says `complete` at last."""
        self.data["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        if self._job.kind == jobs.COSTS:
            with self._phase(f"job {self._job.name}"):
                self.data["costs"] = loop_costs.measure(self._engine, self._shape, self._device)
        elif self._job.kind == jobs.PROFILE:
            self._warm_up()
            with self._phase(f"job {self._job.name}"):
                fresh = itertools.count(self._first)  # the traced prompts must not be in the prefix cache
                self.data["profile"] = profile.traced(lambda: self._once(self._job, next(fresh)), self._device)
        else:
            self._iterate()
        self.data["complete"] = True
        self._write()

    def _iterate(self) -> None:
        self._warm_up()
        self.data |= {"floor": [], "iterations": [], "clocks": {"before": hardware.clocks(self._uuid)}}
        for iteration in range(self._first, self._first + self._times):
            with self._phase(f"job {self._job.name} iteration {iteration}"):
                seconds = self._once(self._job, iteration)
            least = floor.of(self._shape, self._job.lengths(iteration), self._job.n, SLOTS, self.data["hardware"])
            self.data["iterations"].append({"seconds": seconds, "tokens": self._job.tokens(iteration)})
            self.data["floor"].append({**least.__dict__, "seconds": least.seconds})
            self._write()
        self.data["clocks"]["after"] = hardware.clocks(self._uuid)

    def _warm_up(self) -> None:
        short = replace(self._job, new=min(self._job.new, WARM_UP), longest=min(self._job.longest, 4 * WARM_UP))
        with self._phase(f"job {self._job.name} warm-up"):
            self.data["warm_up_seconds"] = self._once(short, -1 - self._first)

    def _once(self, job: Job, iteration: int) -> float:
        """Seconds of one rollout, its tokens counted."""
        asks = job.asks(iteration, self._shape.vocabulary)
        seconds, counted = self._engine.generate(asks, job)
        wanted = [[new] * job.n for _, new in asks]
        if counted != wanted:
            made = sum(each for answers in counted for each in answers)
            missing = any(each < 0 for answers in counted for each in answers)
            raise WrongTokens(
                "the engine left out logprobs that it was asked for"
                if missing
                else f"the engine made {made} tokens in {sum(map(len, counted))} continuations, where "
                f"{job.tokens(iteration)} in {job.prompts * job.n} were asked for, or gave them to other continuations"
            )
        return seconds

    def _write(self) -> None:
        write_json(self._file, self.data)
