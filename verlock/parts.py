"""The parts of a full pass, kept until all of them are there: a run that was cut off goes on where it ended.

`certificates/<variant>/parts/<gpu>-<part>.json`, one for each launch that was green. Parts add up only where all that a
certificate is bound to is the same: digest, kind of GPU, interpreter, base, what is missing, and the gates there are.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import project
from verlock.launch import Machine, Part, Pass
from verlock.smoke.report import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERL = Part("verl")
# One rank in both engine modes and verl's own steps; then two ranks as one tensor parallel replica, and as two replicas.
FULL = (
    Part("eager"),
    Part("graphs"),
    VERL,
    Part("eager", ranks=2, tp=2),
    Part("graphs", ranks=2, tp=2),
    Part("eager", ranks=2, tp=1),
)


def slug(gpu: str) -> str:
    """A GPU's name in a file name: "NVIDIA H100 80GB HBM3" -> h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-").removeprefix("nvidia-")


class Kept:
    """The parts of one variant that were proven under one identity."""

    def __init__(self, variant: str, identity: Mapping[str, Any]) -> None:
        """`identity` is what a certificate is bound to: see `certificate.identity`."""
        self._folder = project.CERTIFICATES / variant / "parts"
        self._identity = dict(identity)

    def keep(self, part: Part, machine: Machine, runs: Sequence[Pass]) -> None:
        """Keep one launch if it was green; one that is red, or crashed, takes away what was kept of it before.

        Args:
            part: which launch.
            machine: where it ran.
            runs: its pass, and that of its repetition if there was one; none where it crashed.
        """
        path = self._path(part)
        if not runs or any(run.problem() for run in runs):
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {
            "identity": self._identity,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "driver": machine.driver,
            "memory_mib": machine.memory_mib,
            "run": runs[0].as_dict(),
        }
        write_json(path, data)

    def read(self) -> dict[Part, dict[str, Any]]:
        """What is there of the full pass, in its order."""
        found = {}
        for part in FULL:
            path = self._path(part)
            data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            if data.get("identity") == self._identity:
                found[part] = data
        return found

    def clear(self) -> None:
        """Take the parts away: they are in a certificate now."""
        for part in FULL:
            self._path(part).unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _path(self, part: Part) -> Path:
        gpu = slug(self._identity["gpu"])
        return self._folder / f"{gpu}-py{self._identity['python'].replace('.', '')}-{part.name}.json"
