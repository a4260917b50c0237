"""Figures, each from the file in which its run was written: certificates/, benchmarks/results/ and results/."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.make.markdown import code, table, words
from docs.make.variants import ordered
from verlock import paths
from verlock.smoke import sabotage
from verlock.variant import certificate
from verlock.variant.chosen import choose

_BENCHMARKS = paths.ROOT / "benchmarks" / "results"


def _certificates() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every certificate that is not stale, with its variant."""
    for chosen in ordered():
        for each in certificate.read(chosen.name):
            if each["digest"] == choose(chosen.name, each["python"]).digest:
                yield chosen.name, each


def _launch(run: dict[str, Any]) -> str:
    """A launch in words: `2 ranks, TP=2, graphs`."""
    ranks = run.get("ranks", 1)
    return f"{ranks} rank{'s' if ranks > 1 else ''}, TP={run['tp']}, {run['mode']}"


def _gate(run: dict[str, Any], ident: str) -> str:
    return next((gate["value"] for gate in run["gates"] if gate["id"] == ident), "")


def _launches(proof: dict[str, Any]) -> list[dict[str, Any]]:
    """Those with all gates; comparisons of two launches are not among them."""
    return [run for run in proof["runs"] if _gate(run, "3")]


def proof() -> str:
    """A table of gates 3, 4, 6 and 11 for every launch of every certificate."""
    gates = ("3", "4", "6", "11")
    rows = [
        (code(variant), _launch(run), *(_gate(run, ident) for ident in gates))
        for variant, proof in _certificates()
        for run in _launches(proof)
    ]
    head = ("variant", "launch", "gate 3: before training", "gate 4: weight sync", "gate 6: sleep", "gate 11: sampler")
    return table(head, rows)


def launches() -> str:
    """A table of how long each launch took, in seconds."""
    found = list(_certificates())
    kinds = list(dict.fromkeys(_launch(run) for _, proof in found for run in _launches(proof)))
    rows, machines = [], []
    for variant, proof in found:
        took = {_launch(run): f"{run['seconds']:.0f}" for run in _launches(proof)}
        gpu = proof["gpu"]
        machines.append(f"{gpu['count']} x {gpu['name']}, driver {gpu['driver']}, {proof['date'][:10]}")
        rows.append((code(variant), *(took.get(kind, "") for kind in kinds), f"{proof['verl']['seconds']:.0f}"))
    head = ("variant", *kinds, "verl's steps")
    if len(set(machines)) == 1:
        return f"{table(head, rows)}\n\nAll on {machines[0]}."
    return table((*head, "on"), [(*row, machine) for row, machine in zip(rows, machines, strict=True)])


def verl_steps() -> str:
    """A table of what verl's own GRPO steps measured."""
    rows = [(code(variant), proof["versions"]["verl"], *_of_verl(proof["verl"])) for variant, proof in _certificates()]
    return table(("variant", "verl", "mean abs(dlogp) and seconds", "bound"), rows)


def _of_verl(run: dict[str, Any]) -> tuple[str, str]:
    gate = next(gate for gate in run["gates"] if gate["id"] == "verl")
    return gate["value"], gate["bound"]


def sabotages() -> str:
    """A table for each report of `--sabotage all`: every sabotage with its gate, sound and broken."""
    parts = []
    for chosen in ordered():
        for path in sorted((paths.CERTIFICATES / chosen.name / "reports").glob("*sabotage*.json")):
            report = json.loads(path.read_text(encoding="utf-8"))
            runs = [*report["runs"], *([report["verl"]] if report.get("verl") else [])]
            link = f"[{path.name}](../{path.relative_to(paths.ROOT)})"
            parts.append(f"**{chosen.name}**, {link}:\n\n{_broken(runs)}")
    return "\n\n".join(parts)


def _broken(runs: list[dict[str, Any]]) -> str:
    sound = {gate["id"]: gate for run in runs if not run["sabotage"] for gate in run["gates"]}
    rows = []
    for run in runs:
        if not (mode := sabotage.MODES.get(run["sabotage"])):
            continue
        gate = next((each for each in run["gates"] if each["id"] == mode.gate), None)
        red = [each["id"] for each in run["gates"] if each["verdict"] == "fail"]
        if gate and red:
            of_sound = sound.get(mode.gate, {}).get("value", "")
            rows.append(
                (code(run["sabotage"]), words(mode.breaks), ", ".join(red), of_sound, gate["value"], gate["bound"])
            )
    return table(("sabotage", "what is broken", "red gates", "sound", "broken", "bound"), rows)


def create() -> str:
    """A table of each benchmarks/results/create*.json: medians, and their ratio to bare uv in the same run."""
    return "\n\n".join(_created(path) for path in sorted(_BENCHMARKS.glob("create*.json")))


def _created(path: Path) -> str:
    found = json.loads(path.read_text(encoding="utf-8"))
    seconds = {name: statistics.median(each) for name, each in found["seconds"].items()}
    ratios = found["ratios"]
    rows = [
        (r["ours"], f"{seconds[r['ours']]:.2f}", r["peer"], f"{seconds[r['peer']]:.2f}", f"{r['ratio']:.2f}")
        for r in ratios
    ]
    machine = found["machine"]
    where = f"{machine['cores']} cores ({machine['processor']}), Python {machine['python'].split()[0]}"
    if line := machine.get("line_megabit"):
        where += f", wheels from the loopback at {line:g} Mbit/s"
    runs = sorted({len(each) for each in found["seconds"].values()})
    counted = " to ".join(map(str, dict.fromkeys((runs[0], runs[-1]))))
    shown = table(("verlock", "s", "beside", "s", "ratio"), rows)
    return f"{code(found['variant'])}, on {where}:\n\n{shown}\n\nMedians of {counted} runs."


def lock_times() -> str:
    """A table of benchmarks/results/lock.json: medians."""
    found = json.loads((_BENCHMARKS / "lock.json").read_text(encoding="utf-8"))
    rows = [(name, _median(each)) for name, each in found.items()]
    return table(("command", "s"), rows)


def _median(seconds: list[float | None]) -> str:
    known = [each for each in seconds if each is not None]
    return f"{statistics.median(known):.2f}" if known else "did not end in the time that the benchmark gave it"


def rollouts() -> str:
    """The tables and plots of `nox -s bench-rollout`, one part for each card; a sentence where there are none."""
    tables = sorted(paths.RESULTS.glob("*/*/table.md"))
    if not tables:
        return "`results/` holds nothing measured on a GPU yet."
    parts = []
    for path in tables:
        text = re.sub(r"^(#+) ", r"##\1 ", path.read_text(encoding="utf-8"), flags=re.MULTILINE).strip()
        plots = sorted(path.parent.glob("*.svg"))
        images = [f"![{each.stem.replace('-', ' ')}](../{each.relative_to(paths.ROOT)})" for each in plots]
        parts.append("\n\n".join([text, *images]))
    return "\n\n".join(parts)
