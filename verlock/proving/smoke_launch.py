"""One launch of verlock/smoke, or of verl itself, inside a built environment: started, watched to its end, and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from verlock import console
from verlock.errors import GateFailed, ModelRefused, SmokeCrashed, VerlockError
from verlock.proving.passes import Pass
from verlock.smoke import gates, overlay, report, sabotage, watchdog
from verlock.smoke.gates import Gate
from verlock.sources import patches
from verlock.sources.git_apply import Stage
from verlock.system import process
from verlock.variant.chosen import Chosen

TAIL = 25  # lines of the log shown when a run crashed


def take_back(chosen: Chosen, which: str, folder: Path) -> Path:
    """An overlay of the patched packages without a patch, for PYTHONPATH; the prefix stays as it is.

    Args:
        chosen: which environment.
        which: how the patch's file name begins, or sabotage.ALL.
        folder: where the overlay goes.
    """
    every = patches.read(chosen.recipe)
    files = [file for file in every if which == sabotage.ALL or file.patch.file.startswith(which)]
    if not files or (which != sabotage.ALL and len(files) > 1):
        known = ", ".join(file.patch.file for file in every) or "none"
        raise VerlockError(f"{which} names no patch, or several, of {chosen.name}", f"its patches: {known}")
    touched = sorted({path for file in files for path in file.paths})
    scratch, into = folder / "unpatched-files", folder / "unpatched"
    stage = Stage(chosen.site, touched, scratch)
    for file in reversed(files):
        if problem := stage.run(file.data, "--reverse"):
            raise GateFailed(
                f"{file.patch.file} cannot be undone: {problem}",
                f"`verlock patches {chosen.name}` shows whether it is applied",
            )
    for package in sorted({path.split("/")[0] for path in touched}):
        inside = [path for path in touched if path.startswith(f"{package}/")]
        texts = {path.removeprefix(f"{package}/"): (scratch / path).read_text(encoding="utf-8") for path in inside}
        overlay.make(chosen.site / package, texts, into)
    return into


def gates_run(chosen: Chosen, environment: dict[str, str], config: dict[str, Any]) -> list[Pass]:
    """Run torchrun once, watch it to its end, and return the passes it made (several under `--sabotage all`).

    Raises:
        SmokeCrashed: a process died without a report (a signal, a full disk): the end of its log is in the error.
        ModelRefused: the environment cannot run this model.
    """
    folder, ranks = Path(config["folder"]), config["ranks"]
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",  # else torchrun uses the host's full name, which may not resolve
        f"--nproc-per-node={ranks}",
        "-m",
        "verlock.smoke",
        str(path),
    ]
    log = folder / "log.txt"
    outcome = watchdog.supervise([str(chosen.interpreter), *torchrun], environment, folder, log)
    data, died = report.read(folder), report.errors(folder)
    if outcome.code and not outcome.hung and not died:
        raise SmokeCrashed(
            f"the smoke run ended with code {outcome.code} before it could report\n{process.tail(log, TAIL)}",
            f"the whole log: {log}",
        )
    for each in died:
        if "remedy" in each:
            raise ModelRefused(each["error"], each["remedy"])
    guard = _guard(data, outcome)
    first = sabotage.passes(config["sabotage"], config["mode"])[0]
    measured = data["passes"] or [{"sabotage": first, "gates": []}]
    passes = []
    for number, each in enumerate(measured):
        last = number == len(measured) - 1
        found = report.complete(map(Gate.from_dict, each["gates"]), died[0] if died and last else None, ranks)
        details: dict[str, Any] = {"ranks": ranks, "gpus": config["gpus"]}
        details |= {"model": Path(config["model"]).name} if config.get("own") else {}
        if not number:
            details |= {
                key: data[key] for key in ("facts", "engine_seconds", "fingerprint", "samples", "phases") if key in data
            }
        if last:
            found.append(guard)
            details |= {"stacks": outcome.stacks} if outcome.stacks else {}
            details |= {"errors": died} if died else {}
        passes.append(
            Pass(config["mode"], config["tp"], each["sabotage"], found, outcome.seconds / len(measured), details)
        )
    return passes


def _guard(data: dict[str, Any], outcome: watchdog.Outcome) -> Gate:
    if outcome.hung:
        return gates.watchdog(outcome.silence, outcome.phase, outcome.limit, hung=True)
    phases = data.get("phases") or [["start", outcome.seconds, outcome.seconds + 1]]
    name, seconds, limit = max(phases, key=lambda phase: phase[1] / phase[2])
    return gates.watchdog(seconds, name, limit, hung=False)


def verl_run(chosen: Chosen, environment: dict[str, str], config: dict[str, Any]) -> Pass:
    """Run GRPO steps of verl itself, as a pass of one gate; a failure includes the end of verl's log."""
    folder = Path(config["folder"])
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    log = folder / "log.txt"
    with console.step("verl", f"GRPO steps with verl {config['version']}"):
        command = [str(chosen.interpreter), "-m", "verlock.smoke.grpo", str(path)]
        outcome = watchdog.supervise(command, environment, folder, log)
    done = folder / "grpo.json"
    data: dict[str, Any] = {"code": outcome.code, "metrics": {}, "steps": [], "standin": False}
    if done.exists():
        data = json.loads(done.read_text(encoding="utf-8"))
    died = report.errors(folder)
    gate = gates.grpo(data)
    if died or outcome.hung:
        why = died[0]["error"] if died else f"not finished after {outcome.silence:.0f} s"
        gate = Gate("verl", gates.FAIL, "error", gate.bound, f"verl's steps failed: {why}")
    details = {**data, "ranks": 1, "gpus": 1, **({"stacks": outcome.stacks} if outcome.stacks else {})}
    if gate.verdict == gates.FAIL:
        details["log"] = process.tail(log, TAIL)
    gate = replace(gate, seconds=outcome.seconds)
    return Pass("verl", 1, config["sabotage"], [gate], outcome.seconds, details)
