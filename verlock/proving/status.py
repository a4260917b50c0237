"""`verlock status`: the table of what is proven, on the screen, as Markdown, and in the README."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

from packaging.version import Version

from verlock import paths
from verlock.errors import VerlockError
from verlock.proving import bench_results, kept_parts
from verlock.proving.passes import FULL
from verlock.smoke import gates, kernels
from verlock.variant import certificate
from verlock.variant.chosen import Chosen, choose, names
from verlock.variant.recipe import Recipe

CERTIFIED, STALE, PARTIAL, NEVER = "certified", "stale", "partial", "never"
BEGIN, END = "<!-- status: begin, written by `verlock status --readme` -->", "<!-- status: end -->"


@dataclass(frozen=True)
class Row:
    """What is proven for one variant and one Python."""

    variant: str
    python: str
    digest: str
    state: str
    gpus: str = ""
    date: str = ""
    note: str = ""


def rows() -> list[Row]:
    """A row for every variant, and one more for each other Python that has a certificate."""
    found = []
    for name in by_version():
        certificates = certificate.read(name)
        try:
            first, *others = choose(name).valid().pythons()
        except VerlockError as error:
            found.append(Row(name, "", "", NEVER, note=error.problem.splitlines()[0]))
            continue
        proven = {each["python"] for each in certificates}
        shown = (first, *(each for each in others if each.python in proven))
        found += [_row(chosen, [each for each in certificates if each["python"] == chosen.python]) for chosen in shown]
    return found


def by_version() -> list[str]:
    """The variants by their version of vLLM; those whose recipe does not say it come last."""
    known: dict[str, Version] = {}
    for name in names():
        with contextlib.suppress(VerlockError, KeyError, TypeError, ValueError):
            known[name] = Version(choose(name).data["vllm"]["version"])
    return [*sorted(known, key=lambda name: known[name]), *(name for name in names() if name not in known)]


def _row(chosen: Chosen, certificates: list[dict[str, Any]]) -> Row:
    variant, python = chosen.name, chosen.python
    try:
        current = chosen.digest
    except VerlockError:
        return Row(variant, python, "", NEVER, note="not locked")
    beside = [_of_nodes(each) for each in certificate.over_nodes(variant)
              if (each["digest"], each["python"]) == (current, python)]  # fmt: skip
    if not certificates:
        return _begun(Row(variant, python, current, NEVER, note=", ".join(beside)))
    # what ran with edits proves those edits: it is shown only where nothing else is
    certificates = [each for each in certificates if not each["receipt"].get("editable")] or certificates
    valid = [each for each in certificates if each["digest"] == current]
    shown = valid or certificates[:1]
    gpus = ", ".join(dict.fromkeys(map(_where, shown)))
    notes = dict.fromkeys([*(note for each in shown for note in _notes(each)), *beside])
    return Row(
        variant, python, current, CERTIFIED if valid else STALE, gpus, str(shown[0]["date"])[:10], ", ".join(notes)
    )


def _begun(row: Row) -> Row:
    """The row of a variant without a certificate, with what is kept of a full pass, if anything is."""
    parts = kept_parts.begun(row.variant, row.digest, row.python)
    if not parts:
        return row
    left = ", ".join(part.said for part in FULL if part not in parts)
    latest = max(parts.values(), key=lambda each: each["date"])
    gpu = latest["identity"]["gpu"].removeprefix("NVIDIA ")
    notes = [f"{len(parts)} of {len(FULL)} launches are green; left: {left}", *([row.note] if row.note else [])]
    return replace(row, state=PARTIAL, gpus=gpu, date=latest["date"][:10], note=", ".join(notes))


def _where(proof: dict[str, Any]) -> str:
    """On which GPUs, and with how many ranks if there were several."""
    gpu = proof["gpu"]
    ranks = [each for each in proof.get("layouts", []) if each != gates.layout(1, 1)]
    return f"{gpu['count']} x {gpu['name'].removeprefix('NVIDIA ')}{f' ({ranks[-1]})' if ranks else ''}"


def _of_nodes(proof: dict[str, Any]) -> str:
    """What a pass over nodes says in the table."""
    return (
        f"passed on {proof['layouts'][0]} ({proof['gpu']['name'].removeprefix('NVIDIA ')}, {str(proof['date'])[:10]})"
    )


def _notes(proof: dict[str, Any]) -> list[str]:
    """What a reader must know about a certificate, as the table says it: base, stand-ins, site wheels."""
    found = [f"{proof['receipt']['base']['kind']} base"]
    if proof["standin"]:
        found.append("verl's step with an sdpa stand-in for flash-attn")
    for package, entry in (proof["receipt"].get("editable") or {}).items():
        changed = len(entry["differs"])
        found.append(f"editable {package}, {changed} file{'' if changed == 1 else 's'} edited")
    for package, entry in proof["receipt"].get("site_wheels", {}).items():
        partial = kernels.kernels_said(proof.get("flash_attn", {})) if package == "flash-attn" else ""
        version = entry["version"].partition("+")[0]
        found.append(f"{package} {version}, site wheel {entry['sha256'][:8]}{f', {partial}' if partial else ''}")
    return found


def show(*, markdown: bool = False, write_readme: bool = False) -> int:
    """Print what is proven for each variant, as a table or as Markdown; or update the README's table."""
    if write_readme:
        readme = paths.ROOT / "README.md"
        readme.write_text(in_readme(readme.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if markdown:
        print(as_markdown())
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in ("variant", "python", "digest", "state", "proven on", "date", "note"):
        table.add_column(column, no_wrap=column != "note")
    colours = {CERTIFIED: "green", STALE: "yellow", PARTIAL: "yellow", NEVER: "dim"}
    for row in rows():
        cells = [escape(each) for each in (row.gpus, row.date, row.note)]
        table.add_row(row.variant, row.python, row.digest[:12], f"[{colours[row.state]}]{row.state}[/]", *cells)
    out = Console(highlight=False)
    (out if out.is_terminal else Console(highlight=False, width=150)).print(table)
    for sentence in bench_results.stale():
        print(sentence)
    return 0


def as_markdown(limits: str = "docs/limits.md") -> str:
    """The README's table; a variant with known limits has a link to them, on the page `limits`."""
    lines = [
        "| variant | vLLM | engine | verl | Python | state | proven on | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows():
        try:
            loaded = choose(row.variant).recipe
        except VerlockError:
            lines.append(f"| `{row.variant}` | | | | | {row.state} | | {row.note} |")
            continue
        pythons = row.python if row.python != loaded.python[0] else ", ".join(loaded.python)
        proven = f"{row.gpus}, {row.date}" if row.gpus else ""
        engine = f"{loaded.vllm.engine}{', patched' if loaded.patch else ''}"
        known = f"[limits]({limits}#{row.variant})" if limits_of(row.variant) else ""
        cells = (
            f"`{row.variant}`",
            vllm_said(loaded),
            engine,
            loaded.verl.version,
            pythons,
            row.state,
            proven,
            "; ".join(filter(None, (row.note, known))),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def vllm_said(recipe: Recipe) -> str:
    """A recipe's vLLM for a table: its release, or the commit that it is built from."""
    return f"commit {recipe.source.commit[:8]}" if recipe.source else recipe.vllm.version


def limits_of(name: str) -> list[certificate.Limit]:
    """What is known not to work with a variant, or was not tried; first the requirements that its recipe sets aside.

    Raises RecipeError where limits.toml is broken.
    """
    try:
        overrides = choose(name).recipe.override
    except VerlockError:
        overrides = []
    aside = [certificate.Limit(f"Set aside, {each.said}: {each.reason}", f"[seen]({each.link})") for each in overrides]
    return [*aside, *certificate.limits(name)]


def in_readme(text: str) -> str:
    """`text` with today's table between its markers; without markers it is returned as it is."""
    if BEGIN not in text or END not in text:
        return text
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{as_markdown()}\n{END}{after}"
