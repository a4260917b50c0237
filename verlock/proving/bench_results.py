"""The benchmark's results as files: `results/<gpu>/<card>/<variant>-<mode>-<shape>-<job>-<round>.json`.

<card> is the beginning of the GPU's UUID: what was measured on two cards is never compared. A file is written again while its
cell is measured; it counts once it says `complete`. A red cell's file says `problem`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import VerlockError
from verlock.proving.bench_plan import Cell
from verlock.system import files
from verlock.system.gpu import Gpus
from verlock.variant.certificate import slug
from verlock.variant.chosen import choose
from verlock.variant.shape import fits

SCHEMA = 1
CARD = 8  # characters of a UUID that name a card here
SHAPE = {
    **dict.fromkeys(("variant", "mode", "shape", "job", "digest", "python"), str),
    "round": int,
    "gpu": {"name": str, "uuid": str},
}


@dataclass(frozen=True)
class Series:
    """One cell with all its rounds: what was measured of a job on an engine of a card."""

    variant: str
    mode: str
    shape: str
    job: str
    parts: tuple[dict[str, Any], ...]

    @property
    def seconds(self) -> list[float]:
        """Of all iterations, in order."""
        return [each["seconds"] for part in self.parts for each in part.get("iterations", [])]

    @property
    def problem(self) -> str:
        """Why it is red; empty where it is not."""
        return next((str(part["problem"]) for part in self.parts if part.get("problem")), "")

    @property
    def engine(self) -> str:
        """As a table names it: `v1 graphs`."""
        return f"{self.variant} {self.mode}"


def folder(machine: Gpus, uuid: str) -> Path:
    """Where the results of a card are."""
    return (
        paths.RESULTS / slug(machine.name) / (uuid.removeprefix("GPU-").removeprefix("MIG-")[:CARD].lower() or "card")
    )


def cards() -> list[Path]:
    """The folders of all cards of which there are results."""
    return sorted({path.parent for path in paths.RESULTS.glob("*/*/*.json")})


def done(path: Path, cell: Cell, head: dict[str, Any]) -> bool:
    """Was this cell measured to its end, of this digest, on this card, with so many iterations?"""
    data = read(path)
    same = ("digest", "python", "gpu", "receipt")
    return bool(
        data
        and data.get("complete")
        and not data.get("problem")
        and all(data.get(key) == head[key] for key in same)
        and (len(data["iterations"]) >= cell.iterations if "iterations" in data else True)
    )


def read(path: Path) -> dict[str, Any] | None:
    """One result file; None where it is not there, or is none."""
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if fits(data, SHAPE) else None


def fail(path: Path, head: dict[str, Any], why: str) -> None:
    """Make a cell red: its file keeps what was measured, and says why that is not all."""
    data = read(path) or {}
    files.write_whole(path, json.dumps({**head, **data, "complete": False, "problem": why}, indent=1) + "\n")


def series(card: Path) -> list[Series]:
    """What is known of a card, one for each cell, in the order of the file names; what was cut off is left out.

    Rounds of an older digest than the newest round's are left out, too: they are of another environment.
    """
    found: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for path in sorted(card.glob("*.json")):
        data = read(path)
        if data and (data.get("complete") or data.get("problem")):
            found.setdefault((data["variant"], data["mode"], data["shape"], data["job"]), []).append(data)
    return [Series(*key, _newest(parts)) for key, parts in found.items()]


def _newest(parts: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    digest = max(parts, key=lambda part: str(part.get("date", "")))["digest"]
    return tuple(sorted((part for part in parts if part["digest"] == digest), key=lambda part: int(part["round"])))


def stale() -> Iterator[str]:
    """A sentence for every variant and card whose results are of another digest than today's."""
    for card in cards():
        measured: dict[tuple[str, str], set[str]] = {}
        for each in series(card):
            for part in each.parts:
                measured.setdefault((part["variant"], part["python"]), set()).add(part["digest"])
        for (variant, python), digests in sorted(measured.items()):
            try:
                current = choose(variant, python).digest
            except VerlockError:
                current = ""
            if old := sorted(each[:12] for each in digests - {current}):
                yield (
                    f"{paths.shown(card)}: rollouts of {variant} were measured with {', '.join(old)}, "
                    f"which is no longer its digest ({current[:12] or 'it has none'})"
                )
