"""What a smoke run shows on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from verlock.proving.passes import Pass
from verlock.smoke import gates


def show(variant: str, passes: Sequence[Pass]) -> None:
    """Print every pass as a table: gate, value, bound, verdict, seconds, and a sentence under it for each red gate."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    wide = Console(highlight=False)
    out = wide if wide.is_terminal else Console(highlight=False, width=170)
    colours = {gates.PASS: "green", gates.FAIL: "bold red", gates.SKIP: "dim"}
    for each in passes:
        table = Table(title=escape(f"{variant}: {each.label}, {each.timing}"), title_justify="left")
        for column, justify in (
            ("gate", "left"),
            ("value", "left"),
            ("bound", "left"),
            ("verdict", "left"),
            ("s", "right"),
        ):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]
        for gate in each.gates:
            verdict = f"[{colours[gate.verdict]}]{gate.verdict}[/]"
            note = f"\n{gate.note}" if gate.note else ""
            cells = (f"{gate.id:>8} {gate.name}", gate.value + note, gate.bound)
            table.add_row(*map(escape, cells), verdict, f"{gate.seconds:.1f}")
        out.print(table)
        for gate in each.red:
            out.print(f"  gate {gate.id}: {gate.sentence}", markup=False)
        if each.sabotage:
            out.print(f"  sabotage: {each.problem() or 'exactly the targeted gate turned red'}", markup=False)
