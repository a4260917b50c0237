"""`verlock compare`: two variants side by side, by their locks and by what their certificates measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verlock.locking import lock_diff
from verlock.locking.lock_diff import Change, Entry, Layer
from verlock.variant import certificate, lockfiles
from verlock.variant.chosen import Chosen, choose

NOT_RUN = "not run"
# The gates whose values are figures, and what they are of; `verlock.smoke.gates` measures them.
GATES = {
    "3": "logprobs before training, mean abs(dlogp)",
    "4": "logprobs after the sync, mean abs(dlogp)",
    "6": "memory asleep",
}
SECONDS = {"engine_seconds": "engine started, s", "seconds": "whole launch, s"}

Figures = dict[tuple[str, str], str]  # (launch, figure) -> value


def run(one: str, two: str) -> int:
    """Print which packages differ between two variants (their first Pythons), and what was measured of each; returns 0.

    Raises UnknownVariant, LockError, CertificateError.
    """
    from rich.console import Console
    from rich.table import Table

    pair = (choose(one), choose(two))
    screen = Console(highlight=False)
    screen = screen if screen.is_terminal else Console(highlight=False, width=150)
    changes = packages(*pair)
    table = Table("layer", "package", one, two, box=None, pad_edge=False)
    for each in changes:
        table.add_row(each.layer, each.package, each.old or "-", each.new or "-")
    screen.print(table)
    counts = [f"{sum(each.kind == kind for each in changes)} only in {name}" for kind, name in
              ((lock_diff.REMOVED, one), (lock_diff.ADDED, two))]  # fmt: skip
    both = sum(bool(each.old and each.new) for each in changes)
    screen.print(f"{', '.join(counts)}, {both} in both at other versions\n")

    proofs = [proof(chosen) for chosen in pair]
    table = Table("launch", "figure", one, two, box=None, pad_edge=False)
    table.add_row("", "Python", *(chosen.python for chosen in pair))
    table.add_row("", "measured on", *map(_where, pair, proofs))
    for row in rows(*map(figures, proofs)):
        table.add_row(*row)
    screen.print(table)
    return 0


def packages(one: Chosen, two: Chosen) -> list[Change]:
    """The packages of both layers that one variant lacks or has at another version; other files of one version are no change."""
    old, new = ({("", layer): found for layer, found in _layers(chosen).items()} for chosen in (one, two))
    kinds = (lock_diff.ADDED, lock_diff.REMOVED, lock_diff.UP, lock_diff.DOWN)
    return [change for change in lock_diff.compare(old, new) if change.kind in kinds]


def _layers(chosen: Chosen) -> dict[str, Layer]:
    pip = {pin.name: Entry(pin.version, frozenset()) for pin in chosen.pins}
    if source := chosen.data.get("source"):
        pip[lockfiles.normalise(source["package"])] = Entry(source["version"], frozenset())
    locked = lockfiles.conda_packages(chosen.locks / lockfiles.CONDA_LOCK)
    return {"pip": pip, "conda": {each["name"]: Entry(each["version"], frozenset()) for each in locked}}


def proof(chosen: Chosen) -> dict[str, Any] | None:
    """The newest certificate of today's lock for this Python, without edits, or None. Raises CertificateError."""
    return next(
        (
            each
            for each in certificate.read(chosen.name)
            if (each["digest"], each["python"]) == (chosen.digest, chosen.python)
            and not each["receipt"].get("editable")
        ),
        None,
    )


def figures(found: Mapping[str, Any] | None) -> Figures:
    """What a certificate measured, by launch: gates' values as they stand there, and seconds."""
    if found is None:
        return {}
    measured: Figures = {}
    for launch in [*found["runs"], found["verl"]]:
        ranks = launch.get("ranks", 1)
        name = f"{launch['mode']}, {ranks} rank{'s' if ranks > 1 else ''}, TP={launch['tp']}"
        for gate in launch["gates"]:
            if gate["id"] in GATES:
                measured[name, GATES[gate["id"]]] = gate["value"]
            elif gate["id"] == "verl":
                measured[name, gate["name"]] = gate["value"]
        for key, figure in SECONDS.items():
            if launch.get(key):
                measured[name, figure] = f"{launch[key]:.1f}"
    return measured


def rows(one: Figures, two: Figures) -> Sequence[tuple[str, str, str, str]]:
    """The figures of two certificates side by side; where neither has any, one row says so."""
    if not one and not two:
        return [("", "all figures", NOT_RUN, NOT_RUN)]
    return [(*key, one.get(key, NOT_RUN), two.get(key, NOT_RUN)) for key in dict.fromkeys([*one, *two])]


def _where(chosen: Chosen, found: Mapping[str, Any] | None) -> str:
    if found is None:
        old = any(each["python"] == chosen.python for each in certificate.read(chosen.name))
        return f"{NOT_RUN} with today's lock" if old else NOT_RUN
    return f"{found['gpu']['count']} x {found['gpu']['name'].removeprefix('NVIDIA ')}, {str(found['date'])[:10]}"
