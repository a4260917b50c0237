"""Did verlock survive a fault? One judgement for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from badserver import SECRET
from scene import Scene, Seen

KILLED = frozenset(
    {None, -9, -15, -1, -3, 143, 129, 137}
)  # ended without time to tidy up (None: by this suite, as it hung)


@dataclass(frozen=True)
class Cell:
    """One fault at one step: what to do, and what its user must meet.

    do: brings the fault about and runs verlock; what it returns is judged.
    codes: the exit codes that are right.
    starts: see `Scene.begin`; the fault is tried from each of them.
    says: texts that the user must read.
    damaged: what `verify` may answer until it is healed, where the fault is damage to the environment itself.
    abrupt: verlock had no time to tidy up: the older environment may wait until the next run.
    lift: takes the fault away.
    again: the next run, `create` where none is named.
    gone: patterns of what must not lie about after that (leftovers beside the environment never may).
    quick: among those that every submission runs.
    """

    do: Callable[[Scene], Seen]
    codes: frozenset[int]
    starts: tuple[str, ...] = ("older",)
    says: tuple[str, ...] = ()
    damaged: frozenset[int] = frozenset()
    abrupt: bool = False
    lift: Callable[[Scene], object] | None = None
    again: Callable[[Scene], Seen] | None = None
    gone: tuple[str, ...] = ()
    quick: bool = False


def tried(scene: Scene, cell: Cell) -> list[str]:
    """Try a fault from each of its starts; all that is wrong at the first where something is, with what verlock said."""
    for start in cell.starts:
        scene.begin(start)
        seen = cell.do(scene)
        if wrong := complaints(scene, cell, start, seen):
            return [*(f"from {start}: {each}" for each in wrong), f"it said:\n{seen.said[-2000:]}"]
    return []


def complaints(scene: Scene, cell: Cell, start: str, seen: Seen) -> list[str]:
    """All that is wrong with how verlock took a fault; nothing where it survived."""
    wrong = _of_the_run(scene, cell, seen)
    wrong += _of_what_is_there(scene, cell, start, seen)
    if cell.lift:
        cell.lift(scene)
    wrong += _of_the_next_run(scene, cell)
    return wrong


def _of_the_run(scene: Scene, cell: Cell, seen: Seen) -> list[str]:
    """The right exit code, an error in words, no traceback, no secret."""
    wrong = []
    if seen.code is None:
        wrong.append("it hung")
    elif seen.code not in cell.codes:
        wrong.append(f"exit code {seen.code}, not {' or '.join(map(str, sorted(cell.codes)))}")
    if seen.code is not None and 10 <= seen.code < 70 and "verlock: " not in seen.said:
        wrong.append("an error without a word")
    if _has_traceback(seen):
        wrong.append("a traceback")
    wrong += [f"does not say {text!r}" for text in cell.says if text not in seen.said]
    if SECRET in seen.said:
        wrong.append("a secret on the screen")
    for path in [*scene.envs.glob("*/verlock.json"), *scene.work.glob("cache/**/*.json")]:
        if SECRET in path.read_text(errors="replace"):
            wrong.append(f"a secret in {path.name}")
    return wrong


def _of_what_is_there(scene: Scene, cell: Cell, start: str, seen: Seen) -> list[str]:
    """Nothing half-made is taken for whole, and an older environment is still there."""
    verdict = scene.verify()
    wrong = ["verify shows a traceback"] if _has_traceback(verdict) else []
    if seen.code == 0 and verdict.code != 0:
        return [*wrong, f"success, but verify gives {verdict.code}: {_first(verdict)}"]
    if cell.damaged:
        allowed = {0, *cell.damaged}
        return wrong if verdict.code in allowed else [*wrong, f"verify gives {verdict.code}: {_first(verdict)}"]
    if start in ("fresh", "source"):
        finished = seen.code == 0 or cell.abrupt or seen.code in KILLED
        if verdict.code != 40 and not (verdict.code == 0 and finished):
            wrong.append(f"a run that failed left something that verify gives {verdict.code}")
        return wrong
    if verdict.code == 40 and (cell.abrupt or seen.code in KILLED):
        empty = {"UV_FIND_LINKS": "", "UV_OFFLINE": "1", "UV_CACHE_DIR": str(scene.work / "empty-cache")}
        scene.create(**empty)  # it cannot make a new one, so the older one must come back
        verdict = scene.verify()
    if verdict.code != 0:
        wrong.append(f"the older environment is lost: verify gives {verdict.code}: {_first(verdict)}")
    return wrong


def _of_the_next_run(scene: Scene, cell: Cell) -> list[str]:
    """The fault is gone: the next run completes, what it made is whole, and nothing else is left."""
    again = cell.again or (lambda scene: scene.create(**scene.with_artefact()))
    done = again(scene)
    wrong = ["the next run shows a traceback"] if _has_traceback(done) else []
    if cell.again and done.code != 0:
        wrong.append(f"the next run ends with {done.code}: {_first(done)}")
    made = scene.create(**scene.with_artefact()) if cell.again else done
    if made.code != 0:
        return [*wrong, f"the next create ends with {made.code}: {_first(made)}"]
    verdict = scene.verify("--strict")
    if verdict.code != 0:
        wrong.append(f"after the next run verify gives {verdict.code}: {_first(verdict)}")
    left = {path.name for path in scene.envs.iterdir()} - {"toy", ".toy.lock"}
    left |= {str(path.relative_to(scene.work)) for pattern in cell.gone for path in scene.work.glob(pattern)}
    return [*wrong, f"left lying about: {', '.join(sorted(left))}"] if left else wrong


def _has_traceback(seen: Seen) -> bool:
    """Whether verlock itself broke down; the words of a child that it quotes are indented."""
    return any(line.startswith("Traceback") for line in seen.said.splitlines())


def _first(seen: Seen) -> str:
    lines = (
        [line for line in seen.said.splitlines() if "verlock:" in line] or seen.said.strip().splitlines()[-1:] or [""]
    )
    at = seen.said.find(lines[0])
    return " / ".join(seen.said[at:].splitlines()[:3])[:300]
