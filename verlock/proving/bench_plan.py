"""Which cells a benchmark run measures, in which order, and how long that will take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from verlock.bench import jobs
from verlock.bench.jobs import JOBS, Job
from verlock.bench.shapes import SHAPES, Shape
from verlock.errors import VerlockError

ROUNDS = 2  # how often every engine is started, in turn, so that a drift of the card does not look like a difference


@dataclass(frozen=True)
class Options:
    """What is asked for; an empty tuple is what the jobs say themselves.

    Attributes:
        shapes, jobs, modes: only these.
        iterations: of each timed cell, all rounds together; 0 is what its job or shape says.
        rounds: in how many starts of its engine a cell is measured.
        minutes: start no launch that would end later; 0 is no end.
        again: measure what is already there once more.

    Raises VerlockError where a shape or a job is not known.
    """

    shapes: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    iterations: int = 0
    rounds: int = ROUNDS
    minutes: float = 0.0
    again: bool = False

    def __post_init__(self) -> None:
        for what, given, known in (("shape", self.shapes, SHAPES), ("job", self.jobs, JOBS)):
            if unknown := [each for each in given if each not in known]:
                raise VerlockError(f"bench-rollout has no {what} {unknown[0]!r}", f"it has {', '.join(known)}")


@dataclass(frozen=True)
class Cell:
    """One job on one engine, in one round; `first` is the number of its first iteration, which seeds the prompts."""

    variant: str
    mode: str
    shape: Shape
    job: Job
    round: int
    iterations: int
    first: int

    @property
    def label(self) -> str:
        """The cell as messages name it: `v1 graphs, 7b n8`."""
        return f"{self.variant} {self.mode}, {self.shape.name} {self.job.name}"

    @property
    def file(self) -> str:
        """The name of its result file."""
        return f"{self.variant}-{self.mode}-{self.shape.name}-{self.job.name}-{self.round}.json"


@dataclass
class Launch:
    """One start of an engine, and what is measured on it; vLLM's own benchmark starts one of its own."""

    variant: str
    mode: str
    shape: Shape
    round: int
    cells: list[Cell] = field(default_factory=list)

    @property
    def upstream(self) -> bool:
        """Is this vLLM's own benchmark?"""
        return self.cells[0].job.kind == jobs.UPSTREAM

    @property
    def label(self) -> str:
        """The launch as the screen names it."""
        names = ", ".join(cell.job.name for cell in self.cells)
        return f"{self.variant} {self.mode}, {self.shape.name}, {names}, round {self.round}"


def launches(variants: Mapping[str, Sequence[str]], options: Options) -> list[Launch]:
    """All launches, in order: shape by shape, in each all rounds; every other round goes through the engines backwards.

    Args:
        variants: name -> the modes that it can run.
        options: what is asked for.
    """
    found = []
    for shape in (each for each in SHAPES.values() if not options.shapes or each.name in options.shapes):
        for number in range(1, options.rounds + 1):
            engines = [
                (name, mode)
                for mode in jobs.MODES
                for name, can in variants.items()
                if mode in can and _wanted(mode, options)
            ]
            for name, mode in engines if number % 2 else reversed(engines):
                found += _of_engine(name, mode, shape, number, options)
    return found


def _wanted(mode: str, options: Options) -> bool:
    return not options.modes or mode in options.modes


def _of_engine(name: str, mode: str, shape: Shape, number: int, options: Options) -> list[Launch]:
    """The launches of one engine in one round: its jobs, and vLLM's own benchmark after them."""
    cells = []
    for job in JOBS.values():
        if (job.name not in options.jobs) if options.jobs else (job.asked or shape.name not in job.shapes):
            continue
        if mode not in job.modes and not (options.jobs and options.modes):
            continue
        total = (
            1 if job.kind in (jobs.COSTS, jobs.PROFILE) else options.iterations or job.iterations or shape.iterations
        )
        if job.kind == jobs.UPSTREAM:
            total = job.iterations
        count, first = _share(total, options.rounds, number)
        if count:
            cells.append(Cell(name, mode, shape, job, number, count, first))
    ours = [cell for cell in cells if cell.job.kind != jobs.UPSTREAM]
    ours.sort(key=lambda cell: cell.job.kind == jobs.COSTS)  # stable; last, since it drops the weights
    parts = [ours, *([cell] for cell in cells if cell.job.kind == jobs.UPSTREAM)]
    return [Launch(name, mode, shape, number, part) for part in parts if part]


def _share(total: int, rounds: int, number: int) -> tuple[int, int]:
    """How many of `total` iterations round `number` (from 1) measures, and the number of the first (from 0)."""
    counts = [total // rounds + (each < total % rounds) for each in range(rounds)]
    return counts[number - 1], sum(counts[: number - 1])


# Seconds from start to the first job, and new tokens per second, as first read on one H100 (V0: 0.7.3; V1: commit 22757848). V1's
# eager rate is a guess. Only the time that is foretold rests on them.
START = {"eager": 60.0, "graphs": 100.0}
RATES = {
    ("7b", "V0", "eager"): 4_400,
    ("7b", "V0", "graphs"): 5_900,
    ("7b", "V1", "eager"): 7_500,
    ("7b", "V1", "graphs"): 10_500,
    ("", "V0", "eager"): 5_000,
    ("", "V0", "graphs"): 8_000,
    ("", "V1", "eager"): 9_000,
    ("", "V1", "graphs"): 19_000,
}
COST_SECONDS = 60.0
WARM_UP_SHARE = 0.2  # of an iteration


def estimate(launch: Launch, engine: str) -> float:
    """Seconds that a launch will take, by the first readings; `engine` is V0 or V1."""
    rate = RATES.get((launch.shape.name, engine, launch.mode)) or RATES["", engine, launch.mode]
    return START[launch.mode] + sum(_seconds(cell, rate) for cell in launch.cells)


def _seconds(cell: Cell, rate: float) -> float:
    if cell.job.kind == jobs.COSTS:
        return COST_SECONDS
    one = cell.job.tokens(cell.first) / rate
    times = 2 if cell.job.kind == jobs.PROFILE else cell.iterations
    return one * (times + WARM_UP_SHARE)


@dataclass
class Forecast:
    """How long the rest takes: by the first readings, times what measured launches took beside theirs."""

    foretold: float = 0.0
    took: float = 0.0

    def learn(self, foretold: float, took: float) -> None:
        """A launch that was foretold so many seconds took so many."""
        self.foretold += foretold
        self.took += took

    def of(self, foretold: Iterable[float]) -> float:
        """Seconds for launches of these estimates."""
        return sum(foretold) * (self.took / self.foretold if self.foretold else 1.0)
