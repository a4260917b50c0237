"""What measured seconds say: median, 95th percentile, spread, tokens per second, and how sure a ratio of two lists is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from verlock.bench import jobs
from verlock.bench.jobs import JOBS
from verlock.bench.shapes import SHAPES
from verlock.proving.bench_results import Series

WANTED = 0.95  # confidence


@dataclass(frozen=True)
class Summary:
    """Of the seconds of one cell. `spread` is how far its rounds' medians lie apart, over the median; None for one round."""

    count: int
    median: float
    p95: float
    least: float
    most: float
    spread: float | None

    @property
    def burst(self) -> float:
        """How much longer the longest iteration took than the median one: 1 where all are alike."""
        return self.most / self.median


def summary(rounds: Sequence[Sequence[float]]) -> Summary:
    """The figures of a cell that was measured in some rounds; there must be one iteration at least."""
    every = [each for seconds in rounds for each in seconds]
    middle = statistics.median(every)
    medians = [statistics.median(seconds) for seconds in rounds if seconds]
    spread = (max(medians) - min(medians)) / middle if len(medians) > 1 else None
    return Summary(len(every), middle, percentile(every, 0.95), min(every), max(every), spread)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not less than this share of all (the nearest rank): with fewer than 20, p95 is the largest."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked) - 1e-9) - 1)]


@dataclass(frozen=True)
class Ratio:
    """How many times as long one list's seconds are as another's: the estimate, and where it lies with so much confidence."""

    estimate: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.estimate:.2f} ({self.low:.2f} to {self.high:.2f}, {self.confidence:.0%} sure)"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """The ratio of two lists, by Hodges and Lehmann: the median of all pairs' ratios, its interval by the Mann-Whitney test.

    It assumes independent iterations and lists that differ by a factor alone, no distribution; so two times five iterations
    can be 97 % sure, two times three no more than 90 %. The narrowest interval of at least 95 % is taken, else the widest
    there is.
    """
    pairs = sorted(a / b for a in slow for b in fast)
    counts = _orders(len(slow), len(fast))
    total = sum(counts)
    left_out = 0  # pairs cut off at each end
    while 1 - 2 * sum(counts[: left_out + 1]) / total >= WANTED:
        left_out += 1
    # with no pair cut off the interval ends at the outermost pairs, and misses where all of one list lie beyond the other
    left_out = max(left_out, 1)
    confidence = 1 - 2 * sum(counts[:left_out]) / total
    return Ratio(statistics.median(pairs), pairs[left_out - 1], pairs[-left_out], max(0.0, confidence))


@cache
def _orders(m: int, n: int) -> list[int]:
    """In how many orders of m and n values exactly u = 0, 1, ... pairs have the first list's value below the second's."""
    if m == 0 or n == 0:
        return [1]
    # the largest value of all is the first list's (then it is below none), or the second's (then all m are below it)
    without_first, without_second = _orders(m - 1, n), _orders(m, n - 1)
    found = [0] * (m * n + 1)
    for u, count in enumerate(without_first):
        found[u] += count
    for u, count in enumerate(without_second):
        found[u + m] += count
    return found


def order(each: Series) -> tuple[int, int, str, str, str]:
    """Where a cell stands in tables: by shape, job, engine (V0 first), variant and mode."""
    shape = list(SHAPES).index(each.shape) if each.shape in SHAPES else len(SHAPES)
    job = list(JOBS).index(each.job) if each.job in JOBS else len(JOBS)
    return shape, job, str(each.parts[0].get("engine", "")), each.variant, each.mode


def timed(known: Iterable[Series]) -> list[Series]:
    """The cells of our own timed rollouts that are not red, in the order of tables."""
    found = [each for each in known if each.seconds and not each.problem and JOBS[each.job].kind == jobs.ROLLOUT]
    return sorted(found, key=order)


def rate(each: Series) -> float:
    """New tokens per second, of the median iteration."""
    tokens = [one["tokens"] for part in each.parts for one in part["iterations"]]
    return float(statistics.median(count / seconds for count, seconds in zip(tokens, each.seconds, strict=True)))


def times_floor(each: Series) -> float:
    """How many times the floor the median iteration takes; each iteration is held against its own."""
    least = [one["seconds"] for part in each.parts for one in part["floor"]]
    return float(statistics.median(seconds / one for seconds, one in zip(each.seconds, least, strict=True)))
