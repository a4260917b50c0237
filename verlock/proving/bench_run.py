"""`verlock bench-rollout`: measure rollouts on this machine's GPU, cell by cell, and write table and plots of what is known."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verlock import console
from verlock.bench import jobs
from verlock.env import preflight, python_choice
from verlock.errors import BenchFailed, NoGpu, NotSealed, ReceiptStale, VerlockError
from verlock.proving import bench_launch, bench_plan, bench_results, bench_table, certify
from verlock.proving.bench_launch import Bench
from verlock.proving.bench_plan import Cell, Forecast, Launch, Options
from verlock.system import gpu
from verlock.system.gpu import Gpus
from verlock.variant import receipt
from verlock.variant.chosen import Chosen, names


def run(named: Sequence[str], python: str | None, options: Options) -> int:
    """Measure what is asked for and not there yet; then write tables and plots.

    Args:
        named: variants; all that are built where none is named.
        python: a Python other than the variant's first that is built.
        options: which cells.

    Raises:
        NoGpu, DriverTooOld, NotSealed, ReceiptStale: it cannot start.
        BenchFailed: cells are red; everything else was measured.
    """
    machine = gpu.find()
    if not machine:
        raise NoGpu("bench-rollout needs an NVIDIA GPU, and nvidia-smi shows none here", "run it on a GPU machine")
    chosen = environments(named, python)
    for each in chosen:
        preflight.check_driver(each.recipe, machine.driver)
    uuid = gpu.uuid()
    folder = Path(tempfile.mkdtemp(prefix="verlock-bench-"))
    bench = Bench(folder, bench_results.folder(machine, uuid), uuid)
    red = measure(bench, chosen, machine, options)
    bench_table.write(bench.card)
    if red:
        said = "\n  ".join(f"{cell.label}: {_why(bench, cell)}" for cell in red)
        raise BenchFailed(f"red cells: {len(red)}\n  {said}", f"logs are in {folder}; the next run measures them again")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def draw_again() -> int:
    """Write tables and plots of all results again; measures nothing and needs no GPU."""
    for card in bench_results.cards():
        bench_table.write(card)
    return 0


def environments(named: Sequence[str], python: str | None) -> list[Chosen]:
    """The built environments to measure, of today's digest. One that is named must be there; of the others, those that are.

    Raises NotSealed, ReceiptStale, UnknownVariant.
    """
    found = []
    for name in named or names():
        try:
            chosen = python_choice.built(name, python)
            if receipt.read(chosen.prefix)["digest"] != chosen.digest:
                remedy = f"`nox -s env-{name}` brings it up to date"
                raise ReceiptStale(f"{chosen.prefix} was made from another lock than the current one", remedy)
            found.append(chosen.valid())
        except VerlockError as error:
            if named:
                raise
            if not isinstance(error, NotSealed):
                console.say(f"{name} is left out: {error.problem.splitlines()[0]}")
    if not found:
        raise NotSealed("no environment is built, so there is nothing to measure", "nox -s env-VARIANT makes one")
    return found


def heads(chosen: Sequence[Chosen], machine: Gpus, uuid: str) -> dict[str, dict[str, Any]]:
    """For each variant, what all of its results say of the environment and the card."""
    card = {"name": machine.name, "uuid": uuid, "memory_mib": machine.memory_mib, "driver": machine.driver}
    found = {}
    for each in chosen:
        bound = certify.identity(each, machine.name, receipt.read(each.prefix))
        found[each.name] = {**{key: bound[key] for key in ("digest", "python", "receipt")}, "gpu": card}
    return found


def measure(bench: Bench, chosen: Sequence[Chosen], machine: Gpus, options: Options) -> list[Cell]:
    """Measure all cells of a plan that are not there yet. Returns the red ones."""
    by_name = {each.name: each for each in chosen}
    head = heads(chosen, machine, bench.uuid)
    modes = {
        each.name: [mode for mode in jobs.MODES if mode != "graphs" or each.recipe.vllm.cuda_graphs] for each in chosen
    }

    def is_done(cell: Cell) -> bool:
        path = bench.path(cell)
        if options.again and path not in bench.redone:
            return False
        return bench_results.done(path, cell, head[cell.variant])

    plan = bench_plan.launches(modes, options)
    todo = [launch for launch in plan if not all(map(is_done, launch.cells))]
    if len(todo) < len(plan):
        console.say(f"{len(plan) - len(todo)} of {len(plan)} launches are measured already, and not made again")
    foretold = [bench_plan.estimate(launch, by_name[launch.variant].recipe.vllm.engine) for launch in todo]
    return _all(bench, todo, foretold, options.minutes, lambda each: _one(bench, by_name, each, head, is_done))


def _one(bench: Bench, by_name: dict[str, Chosen], launch: Launch, head: dict[str, Any], is_done: Any) -> list[Cell]:
    return bench_launch.measure(bench, by_name[launch.variant], launch, head[launch.variant], is_done)


def _all(bench: Bench, todo: list[Launch], foretold: list[float], minutes: float, one: Any) -> list[Cell]:
    """Make the launches in order, saying how long the rest takes; with `minutes`, leave out those that would end later."""
    began, forecast, red = time.monotonic(), Forecast(), []
    for number, launch in enumerate(todo):
        left = forecast.of(foretold[number:])
        if minutes and time.monotonic() - began + forecast.of(foretold[number : number + 1]) > minutes * 60:
            console.say(f"no time left for {launch.label}; the next run goes on from there")
            continue
        start = time.monotonic()
        with console.step("bench", f"{number + 1} of {len(todo)}, about {said(left)} left: {launch.label}") as step:
            failed = one(launch)
            step.detail = f"{number + 1} of {len(todo)}: {launch.label}{_told(bench, launch, failed)}"
        red += failed
        if not failed:  # one that failed says nothing of how long the others take
            forecast.learn(foretold[number], time.monotonic() - start)
    return red


def said(seconds: float) -> str:
    """A time as people say it: `40 s`, `7 min`, `1 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _told(bench: Bench, launch: Launch, failed: Sequence[Cell]) -> str:
    """What came out, for the line of a launch that is over."""
    found = []
    for cell in launch.cells:
        data = bench_results.read(bench.path(cell)) or {}
        if cell in failed:
            found.append(f"{cell.job.name} RED: {_why(bench, cell)}")
        elif "iterations" in data:
            found.append(f"{cell.job.name} {' '.join(format(each['seconds'], '.1f') for each in data['iterations'])} s")
    return "".join(f"; {each}" for each in found)


def _why(bench: Bench, cell: Cell) -> str:
    return str((bench_results.read(bench.path(cell)) or {}).get("problem", "")).splitlines()[0]
