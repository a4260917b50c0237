"""`verlock smoke`: run verlock/smoke inside a built environment on this machine's GPUs, and judge what comes back.

One launch for every engine mode and every tensor-parallel layout, then one of verl's own step; a full pass becomes a certificate.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from verlock import console, paths
from verlock.env import preflight
from verlock.errors import GateFailed, NoGpu, ReceiptStale, SmokeCrashed, SmokeHung
from verlock.proving import smoke_launch
from verlock.proving.smoke_launch import Pass
from verlock.smoke import gates, report
from verlock.variant import certificate, receipt
from verlock.variant.chosen import choose

if TYPE_CHECKING:
    from verlock.variant.recipe import Recipe

MODES = ("eager", "graphs")


@dataclass(frozen=True)
class Gpus:
    """The GPUs of this machine that a run may use."""

    name: str
    count: int
    memory_mib: int
    driver: str


def find_gpus() -> Gpus | None:
    """What nvidia-smi shows, cut down to CUDA_VISIBLE_DEVICES; None where there is no GPU."""
    if not shutil.which("nvidia-smi"):
        return None
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    if done.returncode or not rows:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = (
        len(rows) if visible is None else len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    )
    name, memory, driver = rows[0]
    return Gpus(name, count, int(memory), driver) if count else None


def run(
    recipe: Recipe,
    python: str,
    prefix: Path,
    *,
    gpus: int = 1,
    mode: str = "",
    sabotaged: str = "",
    verl: bool = True,
    unpatched: bool = False,
    tp: int = 0,
    json_path: Path | None = None,
) -> int:
    """Prove one environment on this machine's GPUs; prints the table, and on a full pass writes the certificate.

    Args:
        recipe, python, prefix: which environment.
        gpus: how many GPUs; more than one runs TP=1 with data parallel replicas, and TP=gpus.
        mode: eager or graphs alone, which is no full pass; under sabotage eager is the default.
        sabotaged: one of sabotage.MODES, or `all`: succeeds when exactly the gate that is meant turns red.
        verl: run verl's own GRPO step as well.
        unpatched: with the recipe's patches taken back, to see what they are for; never a certificate.
        tp: one tensor-parallel size alone, which is no full pass on several GPUs.
        json_path: where the whole report goes.

    Raises:
        NoGpu, DriverTooOld, NotSealed, ReceiptStale: it cannot start.
        GateFailed, SmokeHung, SmokeCrashed: it did, and failed.
    """
    start = time.monotonic()
    found = needs(recipe, gpus)
    sealed = receipt.read(prefix)
    current = choose(recipe.name, python).digest
    if sealed["digest"] != current:
        remedy = f"`nox -s env-{recipe.name}` brings it up to date"
        raise ReceiptStale(f"{prefix} was made from another lock than the present one", remedy)
    proves = not (sabotaged or unpatched)
    modes = (mode,) if mode else MODES if proves else MODES[:1]
    layouts = (tp,) if tp else (1,) if gpus == 1 else (1, gpus)
    folder = Path(tempfile.mkdtemp(prefix=f"verlock-smoke-{recipe.name}-"))
    environment = smoke_launch.surroundings(recipe, prefix)
    if unpatched:
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(smoke_launch.take_back(recipe, python, prefix, folder)), environment["PYTHONPATH"]]
        )
    passes: list[Pass] = []
    for size in layouts:
        for each in modes:
            config = smoke_launch.configuration(
                recipe, python, found.driver, folder / f"{each}-tp{size}", each, size, sabotaged
            )
            try:
                with console.step("smoke", f"{recipe.name}, {each}, {gpus} x {found.name}, TP={size}"):
                    passes += smoke_launch.launch(prefix, environment, config, gpus)
            except SmokeCrashed:
                show(recipe.name, passes)  # what the launches before it found is not lost
                raise
    step = None
    if verl and proves:
        model = Path(config["folder"]) / "model"
        step = smoke_launch.verl_step(
            recipe, prefix, environment, folder / "verl", model, gpus, found.memory_mib / 1024
        )
    if proves and len(modes) == len(MODES):
        passes += _across(passes)

    whole = proves and len(modes) == len(MODES) and step is not None and (gpus == 1 or not tp)
    problems = [problem for each in [*passes, *([step] if step else [])] if (problem := each.problem())]
    result = {
        "variant": recipe.name,
        "python": python,
        "digest": current,
        "gpu": {"name": found.name, "count": gpus, "memory_mib": found.memory_mib, "driver": found.driver},
        "unpatched": unpatched,
        "whole": whole,
        "problems": problems,
        "seconds": round(time.monotonic() - start, 1),
        "runs": [each.as_dict() for each in passes],
        "verl": step.as_dict() if step else None,
    }
    if json_path:
        report.write_json(json_path, result)
    show(recipe.name, [*passes, *([step] if step else [])])
    if problems:
        _raise(passes, step, problems, folder)
    shutil.rmtree(folder, ignore_errors=True)
    if whole:
        path = certificate.write(recipe, python, sealed, result)
        console.say(f"{recipe.name} is certified on {gpus} x {found.name}: {paths.shown(path)}")
    elif proves:
        console.say("all green, but no certificate: that takes both modes, every layout and verl's own step")
    else:
        console.say("every sabotage turned exactly its gate red" if sabotaged else "green without the patches")
    return 0


def needs(recipe: Recipe, gpus: int) -> Gpus:
    """The GPUs of this machine, if they are enough. Raises NoGpu (saying what is needed) or DriverTooOld."""
    found = find_gpus()
    cuda = f"driver {recipe.cuda.min_driver} or newer (CUDA {recipe.cuda.version})"
    needed = f"{gpus} NVIDIA GPU{'s' if gpus > 1 else ''} with {cuda}"
    if not found or found.count < gpus:
        there = f"there {'is' if found.count == 1 else 'are'} {found.count}" if found else "nvidia-smi shows none here"
        raise NoGpu(
            f"a smoke run of {recipe.name} needs {needed}, and {there}", "run it on a GPU machine; nothing was tested"
        )
    preflight.check_driver(recipe, found.driver)
    return found


def _across(passes: Sequence[Pass]) -> list[Pass]:
    """Gate 9 across launches: for every layout the eager engine's greedy answers against the graphs engine's."""
    found = []
    for size in sorted({each.tp for each in passes}):
        answers = {
            each.mode: each.details["fingerprint"]
            for each in passes
            if each.tp == size and "fingerprint" in each.details
        }
        if set(answers) == set(MODES):
            gate = gates.two_engines(answers["eager"], answers["graphs"])
            found.append(Pass("eager and graphs", size, "", [gate], 0.0, {"gpus": passes[0].details["gpus"]}))
    return found


def _raise(passes: Sequence[Pass], step: Pass | None, problems: Sequence[str], folder: Path) -> None:
    text = "\n  ".join(problems)
    remedy = f"logs, stacks and reports are in {folder}"
    hung = [
        each
        for each in passes
        if each.problem() and each.gates and each.gates[-1].id == "watchdog" and each.red == [each.gates[-1]]
    ]
    if hung and all(not each.sabotage for each in hung):
        stacks = "\n".join(f"--- rank {rank}\n{stack}" for rank, stack in hung[0].details.get("stacks", {}).items())
        raise SmokeHung(f"{text}\n{stacks}", remedy)
    if step and step.red and step.details.get("log"):
        text += f"\n{step.details['log']}"
    raise GateFailed(text, remedy)


# showing it ------------------------------------------------------------------------------------------


def show(variant: str, passes: Sequence[Pass]) -> None:
    """Print every pass as a table: gate, value, bound, verdict, seconds, and a sentence under it for each red gate."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    wide = Console(highlight=False)
    out = wide if wide.is_terminal else Console(highlight=False, width=170)
    colours = {gates.PASS: "green", gates.FAIL: "bold red", gates.SKIP: "dim"}
    for each in passes:
        table = Table(title=escape(f"{variant}: {each.label}, {each.timing}"), title_justify="left")
        for column, justify in (
            ("gate", "left"),
            ("value", "left"),
            ("bound", "left"),
            ("verdict", "left"),
            ("s", "right"),
        ):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        for gate in each.gates:
            verdict = f"[{colours[gate.verdict]}]{gate.verdict}[/]"
            note = f"\n{gate.note}" if gate.note else ""
            cells = (f"{gate.id:>8} {gate.name}", gate.value + note, gate.bound)
            table.add_row(*map(escape, cells), verdict, f"{gate.seconds:.1f}")
        out.print(table)
        for gate in each.red:
            out.print(f"  gate {gate.id}: {gate.sentence}", markup=False)
        if each.sabotage:
            out.print(f"  sabotage: {each.problem() or 'exactly the gate that is meant turned red'}", markup=False)
