"""The benchmark's plots: tokens per second, every iteration, distance from the floor. SVG and PNG, for light and dark pages."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from verlock.bench.jobs import JOBS
from verlock.proving.bench_figures import rate, timed, times_floor
from verlock.proving.bench_results import Series

matplotlib.use("Agg")  # draws into files, where there is no screen

from matplotlib import pyplot

# Grey text with a contrast of 4.4 on white and 4.3 on GitHub's dark page; colours that are neither too light nor too dark for
# either, and are told apart by who sees no red or green (after Okabe and Ito).
GREY = "#777777"
COLOURS = ("#d55e00", "#e69f00", "#2f87c6", "#1a9e77", "#b86aa0", "#8c8c3c")
STYLE = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "verlock",  # the same results give the same bytes
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), GREY
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}

Panel = Callable[[Any, Sequence[Series], "dict[str, str]"], None]


def draw(card: Path, known: Sequence[Series]) -> list[Path]:
    """Draw all plots of a card beside its results; returns the files."""
    cells = timed(known)
    if not cells:
        return []
    engines = list(dict.fromkeys(each.engine for each in cells))
    colours = {engine: COLOURS[at % len(COLOURS)] for at, engine in enumerate(engines)}
    title = cells[0].parts[0]["gpu"]["name"].removeprefix("NVIDIA ")
    found = []
    for name, what, panel in (
        ("throughput", "new tokens per second: median, and slowest to fastest iteration", _throughput),
        ("iterations", "seconds of every iteration, in order; the line is the median", _iterations),
        ("floor", "times the floor: 1 is what memory and matrix units allow", _floor),
    ):
        with pyplot.rc_context(STYLE):
            figure = _figure(cells, colours, panel)
            figure.suptitle(f"One {title}\n{what}", fontsize=10)
            found += _save(figure, card / name)
            pyplot.close(figure)
    return found


def _figure(cells: Sequence[Series], colours: dict[str, str], panel: Panel) -> Any:
    """A panel for every shape and job, as many rows as shapes."""
    shapes = list(dict.fromkeys(each.shape for each in cells))
    names = [name for name in JOBS if any(each.job == name for each in cells)]
    size = (max(5.5, 2.2 + 2.6 * len(names)), 1.1 + 2.6 * len(shapes))  # inches; the title needs 5.5
    figure, axes = pyplot.subplots(len(shapes), len(names), figsize=size, squeeze=False, layout="constrained")
    for row, shape in zip(axes, shapes, strict=True):
        for axis, name in zip(row, names, strict=True):
            here = [each for each in cells if (each.shape, each.job) == (shape, name)]
            if not here:
                axis.set_visible(False)
                continue
            panel(axis, here, colours)
            axis.set_title(f"{shape.upper()}, {name}", fontsize=9)
            axis.set_xticks(range(len(here)), [each.engine.replace(" ", "\n") for each in here], fontsize=7)
            axis.set_xlim(-0.6, len(here) - 0.4)
            axis.set_ylim(bottom=0)
    return figure


def _throughput(axis: Any, cells: Sequence[Series], colours: dict[str, str]) -> None:
    for at, each in enumerate(cells):
        tokens = [one["tokens"] for part in each.parts for one in part["iterations"]]
        rates = [count / seconds for count, seconds in zip(tokens, each.seconds, strict=True)]
        middle = rate(each)
        axis.bar(at, middle, width=0.7, color=colours[each.engine])
        axis.errorbar(at, middle, [[middle - min(rates)], [max(rates) - middle]], color=GREY, capsize=3, linewidth=1)
        # at the foot of the bar: above it the whisker is
        foot = axis.get_xaxis_transform()
        axis.text(at, 0.03, f"{middle:,.0f}", transform=foot, ha="center", va="bottom", fontsize=7, color="black")


def _iterations(axis: Any, cells: Sequence[Series], colours: dict[str, str]) -> None:
    for at, each in enumerate(cells):
        count = len(each.seconds)
        places = [at - 0.3 + 0.6 * (number + 0.5) / count for number in range(count)]
        axis.plot(places, each.seconds, "o", markersize=4, alpha=0.85, color=colours[each.engine])
        axis.hlines(statistics.median(each.seconds), at - 0.36, at + 0.36, color=GREY, linewidth=1)


def _floor(axis: Any, cells: Sequence[Series], colours: dict[str, str]) -> None:
    for at, each in enumerate(cells):
        times = times_floor(each)
        axis.bar(at, times, width=0.7, color=colours[each.engine])
        axis.text(at, times, f"{times:.1f}", ha="center", va="bottom", fontsize=7)
    axis.axhline(1, color=GREY, linestyle="--", linewidth=1)


def _save(figure: Any, path: Path) -> list[Path]:
    """Write SVG and PNG without a background and without a date."""
    files = [path.with_suffix(".svg"), path.with_suffix(".png")]
    figure.savefig(files[0], transparent=True, metadata={"Date": None})
    figure.savefig(files[1], transparent=True, dpi=160)
    return files
