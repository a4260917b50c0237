"""What the benchmark found on one card, as Markdown: `table.md` beside the results, made from them and never by hand."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from verlock import console, paths
from verlock.bench import jobs
from verlock.bench.jobs import JOBS
from verlock.proving import bench_figures, bench_results
from verlock.proving.bench_figures import Ratio, order, rate, timed, times_floor
from verlock.proving.bench_results import Series
from verlock.system import files

NAME = "table.md"
SITTING = 12 * 3600  # seconds: what was measured further apart is no longer one sitting
NEAR = 0.05  # how far vLLM's own benchmark may be from ours
# What the source document says, and of which engines.
CLAIMED = {("V0", "graphs"): 1.37, ("V0", "V1"): 1.5}
# Seconds that others published for a weight sync, with their hardware.
PUBLISHED = (
    "checkpoint-engine, GLM-4.5-Air on 8 H800: 3.5 s",
    "verl's delta sync, 7B: 3.9 to 4.9 s, against 5.5 to 6.0 s without it (hardware not given)",
)

COSTS = "What a training loop pays beside the rollout"
NOTES = {
    "Compared": (
        "",
        "The median of all pairs' ratios, and where it lies with that confidence (Hodges and Lehmann's estimate, exact).",
    ),
    "Rollouts": (
        "",
        "The document speaks of bursts of V0 for n > 1: *max / median* says how much longer the slowest iteration was.",
    ),
    COSTS: ("", f"Each is the least of three. Published by others: {'; '.join(PUBLISHED)}."),
}


def write(card: Path) -> None:
    """Write the table of a card, and its plots where matplotlib is there; print the table."""
    known = bench_results.series(card)
    if not known:
        console.say(f"{paths.shown(card)} has no results yet")
        return
    text = markdown(card, known)
    files.write_whole(card / NAME, text)
    print(text)
    try:
        from verlock.proving import bench_plots
    except ImportError:
        console.warn(
            "matplotlib is not installed, so no plots: `nox -s bench-rollout -- --draw` makes them of the results"
        )
        return
    for path in bench_plots.draw(card, known):
        console.say(f"drawn: {paths.shown(path)}")


def markdown(card: Path, known: Sequence[Series]) -> str:
    """All tables of a card."""
    first = known[0].parts[0]
    gpu = first["gpu"]
    dates = sorted(str(part["date"])[:10] for each in known for part in each.parts if part.get("date"))
    lines = [f"# Rollouts on one {gpu['name'].removeprefix('NVIDIA ')} (card {card.name})", ""]
    lines.append(
        f"Driver {gpu['driver']}; measured {' to '.join(dict.fromkeys((dates[0], dates[-1]))) if dates else 'never'}."
    )
    lines.append(_card_can(known))
    for title, rows in (
        ("Rollouts", _rollouts(known)),
        ("Compared", _compared(known)),
        ("Yardsticks", _yardsticks(known)),
        (COSTS, _costs(known)),
        ("Where the time goes", _profiles(known)),
    ):
        if len(found := list(rows)) > 2:  # more than a heading
            lines += ["", f"## {title}", "", *found, *NOTES.get(title, ())]
    lines += ["", "## The jobs", "", *(f"- `{name}`: {JOBS[name].says}" for name in _names(known) if name in JOBS)]
    if any(each.job == "script" for each in known):
        lines += ["", "How `script` differs from the example:", "", *(f"- {each}" for each in jobs.SCRIPT_DIFFERS)]
    return "\n".join([*lines, ""])


def _names(known: Sequence[Series]) -> list[str]:
    return list(dict.fromkeys(each.job for each in known))


def _card_can(known: Sequence[Series]) -> str:
    """The median of what the launches measured of the card itself."""
    every = [part["hardware"] for each in known for part in each.parts if part.get("hardware")]
    if not every:
        return ""
    copy, multiply = (statistics.median(each[key] for each in every) for key in ("copy_gb_s", "matmul_tflops"))
    return f"The card copies {copy:.0f} GB/s (read and written) and multiplies {multiply:.0f} TFLOP/s in bf16, as measured here."


def _rollouts(known: Sequence[Series]) -> Iterator[str]:
    yield (
        "| shape | job | engine | iterations | median s | p95 | max | max / median | tokens/s | between rounds | floor s "
        "| times the floor | digest |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for each in sorted(known, key=order):
        head = f"| {each.shape} | `{each.job}` | {each.engine} |"
        digest = f"`{each.parts[0]['digest'][:12]}`"
        if each.problem:
            why = each.problem.splitlines()[0].replace("|", "\\|")
            yield f"{head} **red: {why}** | | | | | | | | | {digest} |"
        elif each in timed([each]):
            rounds = [[one["seconds"] for one in part["iterations"]] for part in each.parts]
            found = bench_figures.summary(rounds)
            spread = "one round" if found.spread is None else f"{found.spread:.1%}"
            least = statistics.median(one["seconds"] for part in each.parts for one in part["floor"])
            yield (
                f"{head} {found.count} in {len(rounds)} | {found.median:.2f} | {found.p95:.2f} | {found.most:.2f} | "
                f"{found.burst:.2f} | {rate(each):,.0f} | {spread} | {least:.2f} | {times_floor(each):.1f} | {digest} |"
            )


def _compared(known: Sequence[Series]) -> Iterator[str]:
    """Every pair of cells of one shape and job that differ in mode, or in variant, alone."""
    yield "| shape | job | how many times as long | times (confidence) | iterations | the document |"
    yield "|---|---|---|---|---|---|"
    cells = timed(known)
    for at, one in enumerate(cells):
        for other in cells[at + 1 :]:
            same = (one.shape, one.job) == (other.shape, other.job)
            if not same or (one.variant == other.variant) == (one.mode == other.mode):
                continue
            # eager sorts before graphs and V0 before V1, so the ratio says what the newer one gains
            found = bench_figures.ratio(one.seconds, other.seconds)
            note = "" if one_sitting(one, other) else ", not in one sitting"
            yield (
                f"| {one.shape} | `{one.job}` | {one.engine} / {other.engine} | {found}{note} | "
                f"{len(one.seconds)}, {len(other.seconds)} | {_claimed(one, other, found)} |"
            )


def _claimed(one: Series, other: Series, found: Ratio) -> str:
    """What the document claims of such a pair, and whether that lies where the ratio was found to lie."""
    engines = str(one.parts[0].get("engine")), str(other.parts[0].get("engine"))
    if one.variant == other.variant:
        claim = CLAIMED.get((engines[0], other.mode))
    else:
        claim = CLAIMED.get(engines) if one.mode == "graphs" else None
    if not claim:
        return ""
    seen = "more than" if claim > found.high else "less than" if claim < found.low else "within"
    return f"{claim} (7B, another card): {seen} what was seen here"


def one_sitting(*cells: Series) -> bool:
    """Were all of these measured within half a day?"""
    when = [datetime.fromisoformat(part["date"]).timestamp() for each in cells for part in each.parts]
    return max(when) - min(when) <= SITTING


def _yardsticks(known: Sequence[Series]) -> Iterator[str]:
    """What logprobs cost, and vLLM's own benchmark beside ours."""
    yield "| shape | engine | what | times | |"
    yield "|---|---|---|---|---|"
    cells = {(each.shape, each.engine, each.job): each for each in known if each.seconds and not each.problem}
    for (shape, engine, job), each in sorted(cells.items()):
        if job == "no-logprobs" and (beside := cells.get((shape, engine, "n1"))):
            found = bench_figures.ratio(beside.seconds, each.seconds)
            yield f"| {shape} | {engine} | with logprobs / without | {found} | what logprobs cost |"
        if job == "upstream" and (beside := cells.get((shape, engine, "text"))):
            factor = statistics.median(each.seconds) / statistics.median(beside.seconds)
            verdict = "within 5 %" if abs(factor - 1) <= NEAR else "**further than 5 %**"
            yield f"| {shape} | {engine} | vLLM's own benchmark, {len(each.seconds)} cold run / ours | {factor:.3f} | {verdict} |"


def _costs(known: Sequence[Series]) -> Iterator[str]:
    parts = ("whole", "bucketed", "sleep_1", "wake_1", "sleep_2", "wake_2")
    yield (
        "| shape | engine | engine start s | of it graph capture s | sync whole s | sync in 512 MiB s | of the copy bandwidth "
        "| sleep 1, first | sleep 1 | wake 1 | sleep 2 | wake 2 | GiB awake, asleep 1, asleep 2 |"
    )
    yield f"|{'---|' * 13}"
    for each in sorted(known, key=order):
        data = each.parts[-1]
        costs = data.get("costs")
        if each.problem or not costs:
            continue
        least = {part: min(costs[part]) for part in parts}
        # the copy bandwidth counts what is read and what is written, and so must this
        share = 2 * costs["weights_gib"] * 2**30 / least["whole"] / 1e9 / data["hardware"]["copy_gb_s"]
        held = costs["held_gib"]
        start = f"{data['engine_seconds']:.1f}{'' if not data.get('compiled_before') else ' (compiled before)'}"
        capture = data["capture_seconds"]
        cells = (
            *(each.shape, each.engine, start, "" if capture is None else f"{capture:.1f}"),
            *(f"{least['whole']:.3f}", f"{least['bucketed']:.3f}", f"{share:.0%}", f"{costs['sleep_1'][0]:.2f}"),
            *(f"{least[part]:.2f}" for part in parts[2:]),
            f"{held['awake']:.1f}, {held['asleep_1']:.1f}, {held['asleep_2']:.1f}",
        )
        yield f"| {' | '.join(cells)} |"


def _profiles(known: Sequence[Series]) -> Iterator[str]:
    kinds = ("attention", "matrices", "sampling", "copies", "other kernels", "waiting")
    yield f"| shape | engine | s, traced s | {' | '.join(kinds)} |"
    yield f"|---|---|---|{'---|' * len(kinds)}"
    for each in sorted(known, key=order):
        found = each.parts[-1].get("profile")
        if found and not each.problem:
            wall = found["traced_seconds"]
            cells = (f"{found['shares'].get(kind, 0.0) / wall:.0%}" for kind in kinds)
            yield f"| {each.shape} | {each.engine} | {found['seconds']:.2f}, {wall:.2f} | {' | '.join(cells)} |"
