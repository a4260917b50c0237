"""What a check is, what it may find, and how all of them are made at once and shown."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from verlock.errors import VerlockError
from verlock.system import addresses
from verlock.variant.chosen import Chosen

OK, WARNING, BAD = "ok", "warning", "bad"  # nothing to do; may go wrong, or costs something; will go wrong
LIMIT = 1.6  # seconds for all fast checks together; what is not done by then is said to hang


@dataclass(frozen=True)
class Finding:
    """One line of what a check found; what is not OK has a remedy."""

    state: str
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Subject:
    """What is looked at: the variant that was named, or all of them; `built` are those that are finished here.

    `broken` has the errors of variants that cannot be read, where all are looked at: the others are looked at all the same.
    """

    chosen: tuple[Chosen, ...]
    built: tuple[Chosen, ...]
    named: bool
    broken: tuple[VerlockError, ...] = ()


@dataclass(frozen=True)
class Check:
    """One question: its name on the screen, and the function that answers it."""

    name: str
    look: Callable[[Subject], Iterable[Finding]]


@dataclass(frozen=True)
class Answer:
    """A finding under the name of its check."""

    check: str
    state: str
    said: str
    remedy: str


def fine(said: str) -> list[Finding]:
    """All is well: what was found, for people."""
    return [Finding(OK, said)]


def of_error(error: VerlockError, state: str = BAD) -> Finding:
    """A refusal that another part of verlock has words for already."""
    return Finding(state, error.problem.splitlines()[0], error.remedy)


def ask(check: Check, subject: Subject) -> list[Answer]:
    """One check's answers. What it did not expect is an answer too: no check keeps the others from the screen."""
    try:
        found = list(check.look(subject))
    except VerlockError as error:
        found = [of_error(error)]
    except Exception as error:
        found = [
            Finding(
                WARNING, f"could not be looked at: {error!r}", "please report this; the other checks are not affected"
            )
        ]
    clean = addresses.scrubbed
    return [Answer(check.name, each.state, clean(each.said), clean(each.remedy)) for each in found]


def ask_all(checks: Sequence[Check], subject: Subject, limit: float) -> list[Answer]:
    """The answers of all checks in their order, found at the same time.

    Args:
        checks, subject: what to ask, and of what.
        limit: seconds; a check that takes longer (a dead network file system, a GPU that fell off the bus) is left alone and
            said to hang, so that the others are seen.
    """
    answers: dict[str, list[Answer]] = {}

    def answer(check: Check) -> None:
        answers[check.name] = ask(check, subject)

    # no pool: its threads would be waited for at the end of the process
    threads = [threading.Thread(target=answer, args=(check,), daemon=True) for check in checks]
    until = time.monotonic() + limit
    for thread in reversed(threads):  # the network is asked last in the list and waits longest, so it begins first
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = "look at it by hand: a file system, a name server or a GPU that does not answer"
    return [
        each
        for check in checks
        for each in answers.get(check.name) or [Answer(check.name, WARNING, f"no answer within {limit:.1f} s", late)]
    ]


def as_json(answers: Iterable[Answer]) -> str:
    """The answers as JSON: a list of objects with check, state, said and remedy."""
    return json.dumps([asdict(each) for each in answers], indent=1)


def show(answers: Iterable[Answer], title: str) -> None:
    """Print the answers as a table, the remedy below what it is for."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("check", "state", "found, and what to do"):
        table.add_column(column, no_wrap=column != "found, and what to do")
    colours = {OK: "green", WARNING: "yellow", BAD: "bold red"}
    for each in answers:
        text = escape(each.said) + (f"\n[dim]->[/] {escape(each.remedy)}" if each.remedy else "")
        table.add_row(each.check, f"[{colours[each.state]}]{each.state}[/]", text)
    out = Console(highlight=False)
    (out if out.is_terminal else Console(highlight=False, width=150)).print(table)
