"""Whether each [[override]] of a recipe is still needed: one that is not would set aside a bound for nothing."""

from __future__ import annotations

import email.parser
from collections.abc import Sequence
from dataclasses import replace

from packaging.requirements import Requirement

from verlock.errors import OverrideUnneeded, ResolutionError
from verlock.locking import resolvers
from verlock.locking.loopback_index import Index
from verlock.variant import lockfiles
from verlock.variant.lockfiles import Pin
from verlock.variant.recipe import Override


def needed(question: resolvers.Question, index: Index, pins: Sequence[Pin]) -> None:
    """Check that without any one of the question's overrides there is no solution.

    Args:
        question: what was resolved, with its overrides.
        index: where the metadata of the locked wheels are.
        pins: the answer.

    Raises:
        OverrideUnneeded: the requirer is not locked or asks for no such thing, its requirement is met all the same, or uv finds a
            solution that keeps to it.
        NetworkError: the index does not answer.
    """
    locked = {pin.name: pin for pin in pins}
    for override in question.overrides:
        _is_broken(override, locked, index)
        others = tuple(each for each in question.overrides if each is not override)
        try:
            resolvers.propose(replace(question, output="without-override.txt", overrides=others), index, upgrade=[])
        except ResolutionError:
            continue
        raise OverrideUnneeded(
            f"{override.said}, and uv finds a solution that keeps to it",
            "delete that [[override]] from the recipe, and lock again",
        )


def _is_broken(override: Override, locked: dict[str, Pin], index: Index) -> None:
    """Is the requirement there, and not met by what is locked? Raises OverrideUnneeded."""
    requirer, wanted = locked.get(lockfiles.normalise(override.requirer)), Requirement(override.requirement)
    if requirer is None:
        raise OverrideUnneeded(
            f"{override.requirer} is not locked, and an [[override]] sets aside what it asks for",
            "delete that [[override]]",
        )
    asked = _asked(requirer, index)
    if wanted not in asked:
        near = ", ".join(
            str(each) for each in asked if lockfiles.normalise(each.name) == lockfiles.normalise(wanted.name)
        )
        raise OverrideUnneeded(
            f"{requirer.name} {requirer.version} does not ask for {wanted}, which an [[override]] sets aside",
            f"it asks for {near}: write that" if near else "delete that [[override]]",
        )
    pin = locked.get(lockfiles.normalise(wanted.name))
    if pin is None or wanted.specifier.contains(pin.version, prereleases=True):
        raise OverrideUnneeded(
            f"{override.said}, and the lock has {f'{pin.name} {pin.version}' if pin else 'no such package'}: it is met",
            "delete that [[override]]",
        )


def _asked(pin: Pin, index: Index) -> list[Requirement]:
    """What a locked package asks for, by the metadata of its wheel."""
    wheel = next(
        file
        for file in index.files(pin.name)
        if f"sha256:{file.sha256}" in pin.hashes and file.filename.endswith(".whl")
    )
    text = index.metadata(wheel.sha256).decode("utf-8", "replace")
    lines = email.parser.Parser().parsestr(text, headersonly=True).get_all("Requires-Dist") or []
    return [Requirement(line) for line in lines]
