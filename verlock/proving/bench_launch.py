"""One launch of the benchmark inside a built environment, watched to its end; what it did not measure becomes red cells."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from verlock.bench import checkpoint
from verlock.errors import VerlockError
from verlock.proving import bench_results, bench_upstream, launch_config
from verlock.proving.bench_plan import Cell, Launch
from verlock.smoke import report, watchdog
from verlock.system import files, process
from verlock.variant.chosen import Chosen

ENGINE = "verlock.bench.engine:Vllm"
TAIL, STACK = 12, 40  # lines of the log, or of a stack, in a red cell
UPSTREAM_LIMIT = 400.0  # seconds; it says nothing while it runs
COMPILED = "compiled"  # the folder of compiled code, which all launches of one run share


@dataclass
class Bench:
    """Where a run works and what it starts.

    Attributes:
        folder: the run's own, for logs, configurations and compiled code.
        card: where results go.
        uuid: the GPU's.
        redone: files of cells that this run has measured or made red, for a run that measures again what is there.
    """

    folder: Path
    card: Path
    uuid: str
    redone: set[Path] = field(default_factory=set)

    def path(self, cell: Cell) -> Path:
        """A cell's result file."""
        return self.card / cell.file


def measure(
    bench: Bench, chosen: Chosen, launch: Launch, head: dict[str, Any], is_done: Callable[[Cell], bool]
) -> list[Cell]:
    """Measure what of a launch is not done. A cell that fails becomes red, and the engine is started again for those after it.

    Args:
        bench: where.
        chosen: the environment.
        launch: engine and cells.
        head: what every result says of the environment and the card.
        is_done: whether a cell's result is there.

    Returns the cells that are red now.
    """
    red: list[Cell] = []
    while pending := [cell for cell in launch.cells if cell not in red and not is_done(cell)]:
        for cell in pending:
            bench.redone.add(bench.path(cell))
            bench.path(cell).unlink(missing_ok=True)
        once = _upstream if launch.upstream else _ours
        failed = once(bench, chosen, launch, pending, head)
        for cell, why in failed.items():
            bench_results.fail(bench.path(cell), cell_head(cell, head), why)
        red += failed
        if not failed:  # then nothing is pending: `_ours` makes red what has no result
            break
    return red


def cell_head(cell: Cell, head: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell's result says beside what was measured."""
    job = {**asdict(cell.job), "lengths": "drawn" if cell.job.longest else "fixed"}
    names = {"variant": cell.variant, "mode": cell.mode, "shape": cell.shape.name, "job": cell.job.name}
    return {"schema": bench_results.SCHEMA, **names, "round": cell.round, **head, "work": job}


def configuration(
    bench: Bench, chosen: Chosen, launch: Launch, cells: Sequence[Cell], head: dict[str, Any]
) -> dict[str, Any]:
    """What `python -m verlock.bench` reads: see verlock/bench/runner.py."""
    name = f"{launch.variant}-{launch.mode}-{launch.shape.name}-{launch.round}-{time.monotonic_ns()}"
    compiled = bench.folder / COMPILED / launch.variant
    return {
        "folder": str(bench.folder / name),
        "model": str(bench.folder / f"model-{launch.shape.name}"),
        "engine": ENGINE,
        "device": "cuda",
        "uuid": bench.uuid,
        "mode": launch.mode,
        "llm": chosen.recipe.vllm.llm,
        "shape": asdict(launch.shape),
        "head": {"compiled_before": compiled.exists() and any(compiled.iterdir())},
        "jobs": [
            {
                "job": asdict(cell.job),
                "iterations": cell.iterations,
                "first": cell.first,
                "file": str(bench.path(cell)),
                "head": cell_head(cell, head),
            }
            for cell in cells
        ],
    }


def _ours(bench: Bench, chosen: Chosen, launch: Launch, cells: Sequence[Cell], head: dict[str, Any]) -> dict[Cell, str]:
    """Run our own benchmark once; returns the cells that failed, and why."""
    config = configuration(bench, chosen, launch, cells, head)
    folder = _begin(bench, launch, config)
    path = folder / "config.json"
    report.write_json(path, config)
    log = folder / "log.txt"
    outcome = watchdog.supervise(
        [str(chosen.interpreter), "-m", "verlock.bench", str(path)], _environment(bench, chosen), folder, log
    )
    missing = [cell for cell in cells if not (bench_results.read(bench.path(cell)) or {}).get("complete")]
    if not missing:
        return {}
    where, why = _reason(folder, outcome, log)
    at = [cell for cell in missing if where.startswith(f"job {cell.job.name}") and where.split()[1] == cell.job.name]
    return dict.fromkeys(at or missing, why)


def _reason(folder: Path, outcome: watchdog.Outcome, log: Path) -> tuple[str, str]:
    """In which phase a launch ended, and why: a line; below it stacks or the end of the log, which may be all that is left."""
    died = report.errors(folder)
    if outcome.hung:
        stacks = process.tail("\n".join(outcome.stacks.values()), STACK)
        said = f"no progress for {outcome.silence:.0f} s in {outcome.phase!r} (limit {outcome.limit:.0f} s)"
        return outcome.phase, f"{said}\n{stacks}"
    if died:
        where = died[0]["phase"]
        return where, f"{died[0]['error']} (in {where!r})\n{process.tail(died[0]['traceback'], STACK)}"
    beats = watchdog.beats(folder)
    where = beats[0]["phase"] if beats else "start"
    return where, f"the process ended with code {outcome.code} in {where!r}\n{process.tail(log, TAIL)}"


def _upstream(
    bench: Bench, chosen: Chosen, launch: Launch, cells: Sequence[Cell], head: dict[str, Any]
) -> dict[Cell, str]:
    """Run vLLM's own benchmark once; returns the cell if it failed, and why."""
    (cell,) = cells
    config = configuration(bench, chosen, launch, cells, head)
    folder = _begin(bench, launch, config)
    output, log = folder / "upstream.json", folder / "log.txt"
    began = time.perf_counter()
    try:
        command = bench_upstream.command(chosen, cell, Path(config["model"]), bench.folder / launch.variant, output)
        outcome = watchdog.supervise(command, _environment(bench, chosen), folder, log, first=UPSTREAM_LIMIT)
        seconds = bench_upstream.seconds(output)
    except VerlockError as error:
        return {cell: f"{error.problem}"}
    except (OSError, ValueError, KeyError):
        said = f"no end after {outcome.seconds:.0f} s" if outcome.hung else f"it ended with code {outcome.code}"
        return {cell: f"vLLM's own benchmark measured nothing: {said}\n{process.tail(log, TAIL)}"}
    data = {
        **cell_head(cell, head),
        **config["head"],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "launch_seconds": time.perf_counter() - began - seconds,
        "iterations": [{"seconds": seconds, "tokens": cell.job.tokens(0)}],
        "complete": True,
    }
    files.write_whole(bench.path(cell), json.dumps(data, indent=1) + "\n")
    return {}


def _begin(bench: Bench, launch: Launch, config: Mapping[str, Any]) -> Path:
    """Make the launch's folder, and the model's if it is the first of its shape."""
    folder, model = Path(config["folder"]), Path(config["model"])
    folder.mkdir(parents=True)
    bench.card.mkdir(parents=True, exist_ok=True)
    if not (model / "config.json").exists():
        checkpoint.write(model, launch.shape)
    return folder


def _environment(bench: Bench, chosen: Chosen) -> dict[str, str]:
    """One rank, as torchrun would start it; vLLM's external launcher needs to know its place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    made = launch_config.caches(bench.folder / COMPILED / chosen.name)
    return {**launch_config.variables(chosen), **made, **place}
