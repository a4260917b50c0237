"""What verlock says while it works: a spinner on a terminal, one plain line per step elsewhere. All on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_settings = {"quiet": False}


def set_quiet(quiet: bool) -> None:
    """Silence `say` and `step`; warnings stay."""
    _settings["quiet"] = quiet


def say(text: str) -> None:
    """Tell the user something."""
    if not _settings["quiet"]:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tell the user something that must not be missed."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.markup import escape

        Console(stderr=True).print(f"[bold yellow]warning:[/] {escape(text)}", highlight=False)
    else:
        print(f"warning: {text}", file=sys.stderr, flush=True)


class Step:
    """A running step; its `detail` may change while it runs and is shown with the time it took."""

    def __init__(self, name: str, detail: str) -> None:
        self.name = name
        self._detail = detail
        self._show: Callable[[str], None] = lambda text: None
        self._announces = False

    def announce(self, detail: str) -> None:
        """Say now what the step is about to do, as it may take long; setting `detail` shows it only when the step is done."""
        self.detail = detail
        if self._announces:
            print(f"  {self.name:<10} {detail} ...", file=sys.stderr, flush=True)

    @property
    def detail(self) -> str:
        """What the step is doing, or did."""
        return self._detail

    @detail.setter
    def detail(self, text: str) -> None:
        self._detail = text
        self._show(text)


@contextmanager
def step(name: str, detail: str = "") -> Iterator[Step]:
    """Show one step of a longer task: `name  detail ... 3.2 s` when it is done."""
    current = Step(name, detail)
    start = time.monotonic()
    if _settings["quiet"]:
        yield current
        return
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.markup import escape

        console = Console(stderr=True, highlight=False)
        with console.status(f"{name:<10} {escape(detail)}") as status:
            current._show = lambda text: status.update(f"{name:<10} {escape(text)}")
            yield current
        console.print(f"[green]✓[/] {name:<10} {escape(current.detail)}  [dim]{time.monotonic() - start:.1f} s[/]")
    else:
        current._announces = True
        if detail:
            current.announce(detail)
        yield current
        print(f"  {name:<10} {current.detail}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
