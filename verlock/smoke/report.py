"""What a run leaves in its folder: rank 0's report, written again after every gate, and an error for each rank that died.

So a run that is ended from outside still shows which gates it had measured.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from verlock.smoke import gates
from verlock.smoke.gates import Gate


class Refused(Exception):
    """What this run was given cannot be run: no gate's verdict, but a sentence for the user, and what to do about it."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


class Report:
    """The report of one run; `write` is for rank 0 alone."""

    def __init__(self, folder: Path, writes: bool) -> None:
        self._path = folder / "report.json"
        self._writes = writes
        self.data: dict[str, Any] = {"passes": []}

    def begin(self, sabotage: str, known: Iterable[Gate] = ()) -> None:
        """A new pass through the gates, with those already known."""
        self.data["passes"].append({"sabotage": sabotage, "gates": [gate.as_dict() for gate in known]})
        self.write()

    def add(self, gate: Gate) -> None:
        """One more gate of the current pass."""
        self.data["passes"][-1]["gates"].append(gate.as_dict())
        self.write()

    def write(self) -> None:
        """Write what there is, completely or not at all."""
        if self._writes:
            write_json(self._path, self.data)


def write_json(path: Path, data: Any) -> None:
    """Write `data` so that a reader never sees half of it. NaN is written as Python does, which Python reads."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def write_error(folder: Path, rank: int, phase: str, error: BaseException) -> None:
    """Leave a note of what ended this rank."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    short = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    note: dict[str, Any] = {"rank": rank, "phase": phase, "error": short, "traceback": text}
    if isinstance(error, Refused):
        note |= {"error": str(error), "remedy": error.remedy}
    write_json(folder / f"error-{rank}.json", note)


def read(folder: Path) -> dict[str, Any]:
    """The report, or an empty one if the run ended before it wrote one."""
    path = folder / "report.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"passes": []}
    return data


def errors(folder: Path) -> list[dict[str, Any]]:
    """What ended each rank that died, in rank order; with a `remedy` where the run was refused."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("error-*.json"))]


def complete(measured: Iterable[Gate], died: dict[str, Any] | None, world: int) -> list[Gate]:
    """All gates of a pass: those measured, the one in which a rank died, and the rest as not reached.

    Args:
        measured: what the report holds.
        died: the first error note, if a rank died.
        world: number of ranks.
    """
    known = {gate.id: gate for gate in measured}
    if died:
        phase = died["phase"]
        if phase.startswith("gate "):
            ident = phase.removeprefix("gate ")
            gate = Gate(ident, gates.FAIL, "error", "", f"rank {died['rank']} died: {died['error']}")
        elif phase == "engine":
            gate = gates.engine_did_not_start(died["error"], world)
        else:
            gate = Gate("1", gates.FAIL, "error", "", f"rank {died['rank']} died in {phase!r}: {died['error']}")
        known[gate.id] = gate
    return [known.get(ident) or gates.not_reached(ident) for ident in gates.MEASURED_INSIDE]
