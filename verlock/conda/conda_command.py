"""The `--conda` executable that conda-lock calls: its command line on one side, `verlock.conda.client.solve` on the other.

conda-lock solves nothing itself and there is no conda on a package index. Only what `conda-lock lock` asks for is answered: a
dry-run `create`, and `info`. What conda-lock cannot pass on comes in environment variables, set by `verlock.locking.lock_writer`:
`VERLOCK_CONDA_REPODATA`, `VERLOCK_CONDA_MIRROR`, `VERLOCK_CONDA_LOCKED`, `VERLOCK_CONDA_LOCKED_ONLY` and
`VERLOCK_CONDA_UPGRADE`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from verlock.conda import CUTOFF, client
from verlock.errors import VerlockError


def main(arguments: list[str]) -> int:
    """Answer one call of conda-lock; returns the exit status."""
    parser = argparse.ArgumentParser(prog="verlock.conda.conda_command", description=__doc__)
    parser.add_argument("--version", action="version", version="conda 24.0")  # conda-lock looks for `mamba` in it
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info").add_argument("--json", action="store_true")
    create = commands.add_parser("create")
    for flag in ("--dry-run", "--json", "--override-channels"):
        create.add_argument(flag, action="store_true")
    create.add_argument("--prefix")
    create.add_argument("--channel", action="append", default=[])
    create.add_argument("specs", nargs="*")
    options = parser.parse_args(arguments)
    if options.command == "info":
        print(json.dumps({"pkgs_dirs": []}))
        return 0
    try:
        records = _solve(options.channel, options.specs)
    except VerlockError as error:
        print(json.dumps({"error": type(error).__name__, "message": error.problem, "remedy": error.remedy}))
        return 1
    print(json.dumps({"success": True, "actions": {"FETCH": records, "LINK": records}}))
    return 0


def _solve(channels: list[str], specs: list[str]) -> list[dict[str, Any]]:
    """Solve. conda-lock lists the virtual packages in a fake channel: that one is read here and not passed on."""
    real = [channel for channel in channels if not channel.startswith("file://")]
    virtual = [item for channel in channels if channel.startswith("file://") for item in _virtual_packages(channel)]
    cutoff = next((version for name, version, _ in virtual if name == CUTOFF), None)
    virtual = [item for item in virtual if item[0] != CUTOFF]
    variables = os.environ
    offer = client.Offer(
        cutoff=datetime.strptime(cutoff, "%Y%m%d").date() if cutoff else None,
        repodata=Path(folder) if (folder := variables.get("VERLOCK_CONDA_REPODATA")) else None,
        locked=Path(lock) if (lock := variables.get("VERLOCK_CONDA_LOCKED")) else None,
        locked_only=bool(variables.get("VERLOCK_CONDA_LOCKED_ONLY")),
        upgrade=[name for name in variables.get("VERLOCK_CONDA_UPGRADE", "").split(",") if name],
        mirrors=client.mirrors_from_environment(),
    )
    return client.solve(specs, [_url(channel) for channel in real], virtual, offer)


def _url(channel: str) -> str:
    return channel if "://" in channel else f"https://conda.anaconda.org/{channel}"


def _virtual_packages(channel: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for subdir in ("linux-64", "noarch"):
        path = Path(channel.removeprefix("file://")) / subdir / "repodata.json"
        if path.is_file():
            listed = json.loads(path.read_text(encoding="utf-8"))["packages"].values()
            found += [(item["name"], item["version"], item["build"]) for item in listed]
    return sorted(set(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
