"""One launch of verlock/smoke, or of verl itself, inside a built environment: started, watched to its end, and read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from verlock import console
from verlock.errors import GateFailed, ModelRefused, SmokeCrashed, VerlockError
from verlock.proving import nodes
from verlock.proving.nodes import Agents
from verlock.proving.passes import Pass
from verlock.smoke import gates, overlay, report, sabotage, watchdog
from verlock.smoke.gates import Gate
from verlock.sources import patches
from verlock.sources.git_apply import Stage
from verlock.system import process
from verlock.variant.chosen import Chosen

BEREFT = ("Connection closed by peer", "Connection reset by peer")  # gloo's words
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
                f"`nox -s patches -- {chosen.name}` shows whether it is applied",
            )
    for package in sorted({path.split("/")[0] for path in touched}):
        inside = [path for path in touched if path.startswith(f"{package}/")]
        texts = {path.removeprefix(f"{package}/"): (scratch / path).read_text(encoding="utf-8") for path in inside}
        overlay.make(chosen.site / package, texts, into)
    return into


@dataclass(frozen=True)
class Ended:
    """How a launch ended: on this node, or on all nodes together.

    Attributes:
        outcome: as the watchdog saw it.
        data: the report of rank 0; empty if it wrote none, and on nodes that do not have that rank.
        died: a note for each rank that died, those first that did not die of another one's death.
        tail: the end of the log, if it failed.
        log: where the whole log is.
    """

    outcome: watchdog.Outcome
    data: dict[str, Any]
    died: list[dict[str, Any]]
    tail: str
    log: str

    @classmethod
    def of(cls, outcome: watchdog.Outcome, folder: Path, log: Path) -> Ended:
        """What one node's launch left in its folder."""
        tail = process.tail(log, TAIL) if outcome.code else ""
        return cls(outcome, report.read(folder), sorted(report.errors(folder), key=_cause), tail, str(log))

    @classmethod
    def everywhere(cls, nodes: Sequence[Mapping[str, Any]]) -> Ended:
        """What the launch left on each node, as `asdict` gives it: the report is node 0's, and one node that failed counts."""
        outcomes = [watchdog.Outcome(**node["outcome"]) for node in nodes]
        stacks = {int(rank): text for each in outcomes for rank, text in each.stacks.items()}
        worst = max(outcomes, key=lambda each: (each.hung, bool(each.code)))
        outcome = replace(worst, seconds=max(each.seconds for each in outcomes), stacks=stacks)
        died = sorted((note for node in nodes for note in node["died"]), key=_cause)
        tails = [f"node {number}:\n{node['tail']}" for number, node in enumerate(nodes) if node["tail"]]
        logs = ", ".join(f"node {number}: {node['log']}" for number, node in enumerate(nodes))
        return cls(outcome, nodes[0]["data"], died, "\n".join(tails), logs)


def _cause(note: Mapping[str, Any]) -> tuple[bool, int]:
    """For sorting: a rank whose connection was closed died of another one's death."""
    return any(each in note["error"] for each in BEREFT), int(note["rank"])


def gates_run(
    chosen: Chosen, environment: dict[str, str], config: dict[str, Any], agents: Agents | None = None
) -> list[Pass]:
    """Run torchrun once, watch it to its end, and return the passes it made (several under `--sabotage all`).

    With `agents`, this node's ranks are a part of all, and every node returns the same.

    Raises:
        SmokeCrashed: a process died without a report (a signal, a full disk): the end of its log is in the error.
        ModelRefused: the environment cannot run this model.
        NodeMissing: another node's agent is gone.
    """
    folder, ranks = Path(config["folder"]), config["ranks"]
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    # else torchrun uses the host's full name, which may not resolve
    place = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
    if agents:
        port, *_ = agents.gather(nodes.free_port(), watchdog.FIRST_BEAT)
        place = agents.torchrun(ranks, port)
    log = folder / "log.txt"
    command = [str(chosen.interpreter), "-m", "torch.distributed.run", *place, "-m", "verlock.smoke", str(path)]
    ended = Ended.of(watchdog.supervise(command, environment, folder, log), folder, log)
    if agents:
        # a node that hangs is ended by its own watchdog, when the phase that it is in has had its time
        longest = max({**watchdog.LIMITS, **config.get("limits", {})}.values()) + 2 * watchdog.ALONE
        ended = Ended.everywhere(agents.gather(asdict(ended), longest))
    if ended.outcome.code and not ended.outcome.hung and not ended.died:
        raise SmokeCrashed(
            f"the smoke run ended with code {ended.outcome.code} before it could report\n{ended.tail}",
            f"the whole log: {ended.log}",
        )
    for note in ended.died:
        if "remedy" in note:
            raise ModelRefused(note["error"], note["remedy"])
    return _passes(config, ended)


def _passes(config: dict[str, Any], ended: Ended) -> list[Pass]:
    """The passes that a launch made, each with all its gates and what is known of it."""
    data, died, ranks = ended.data, ended.died, config["ranks"]
    guard = _guard(data, ended.outcome)
    first = sabotage.passes(config["sabotage"], config["mode"])[0]
    measured = data["passes"] or [{"sabotage": first, "gates": []}]
    passes = []
    for number, each in enumerate(measured):
        last = number == len(measured) - 1
        found = report.complete(map(Gate.from_dict, each["gates"]), died[0] if died and last else None, ranks)
        details: dict[str, Any] = {key: config[key] for key in ("ranks", "gpus", "nodes") if key in config}
        details |= {"model": Path(config["model"]).name} if config.get("own") else {}
        if not number:
            details |= {
                key: data[key] for key in ("facts", "engine_seconds", "fingerprint", "samples", "phases") if key in data
            }
        if last:
            found.append(guard)
            details |= {"stacks": ended.outcome.stacks} if ended.outcome.stacks else {}
            details |= {"errors": died} if died else {}
        seconds = ended.outcome.seconds / len(measured)
        passes.append(Pass(config["mode"], config["tp"], each["sabotage"], found, seconds, details))
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
