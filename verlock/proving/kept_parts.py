"""The parts of a full pass, kept until all of them are there: a run that was cut off continues where it stopped.

`certificates/<variant>/parts/<gpu>-py<python>-<part>.json`, one for each green launch. Parts count together only if everything
that a certificate is bound to is the same: digest, kind of GPU, interpreter, base, what is missing, and the list of gates.
"""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import paths
from verlock.proving.passes import FULL, Part, Pass
from verlock.system import files
from verlock.system.gpu import Gpus
from verlock.variant.certificate import slug

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def entry(machine: Gpus, run: Pass) -> dict[str, Any]:
    """One launch as a certificate wants it: its pass, when and with which driver it ran, and the memory of one GPU."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "driver": machine.driver,
        "memory_mib": machine.memory_mib,
        "run": run.as_dict(),
    }


class Kept:
    """The parts of one variant that were proven under one identity."""

    def __init__(self, variant: str, identity: Mapping[str, Any]) -> None:
        """`identity` is what a certificate is bound to: see `certify.identity`."""
        self._folder = paths.CERTIFICATES / variant / "parts"
        self._identity = dict(identity)

    def keep(self, part: Part, machine: Gpus, runs: Sequence[Pass]) -> None:
        """Keep one launch of the full pass if it was green; if it was red or crashed, delete what was kept of it before.

        Args:
            part: which launch.
            machine: where it ran.
            runs: its pass, and the pass of its repetition if there was one; empty if it crashed.
        """
        if part not in FULL:
            return
        if not runs or any(run.problem() for run in runs):
            self._path(part).unlink(missing_ok=True)
            return
        data = {"identity": self._identity, **entry(machine, runs[0])}
        files.write_whole(self._path(part), json.dumps(data, indent=1) + "\n")

    def read(self) -> dict[Part, dict[str, Any]]:
        """The parts of the full pass that are kept, in its order."""
        found = {}
        for part in FULL:
            with contextlib.suppress(OSError, ValueError):  # not there, or not whole: then that launch is made again
                data = json.loads(self._path(part).read_text(encoding="utf-8"))
                if data["identity"] == self._identity:
                    found[part] = data
        return found

    def clear(self) -> None:
        """Delete the parts: they are in a certificate now, or cannot be used."""
        for part in FULL:
            self._path(part).unlink(missing_ok=True)
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _path(self, part: Part) -> Path:
        gpu = slug(self._identity["gpu"])
        return self._folder / f"{gpu}-py{self._identity['python'].replace('.', '')}-{part.name}.json"
