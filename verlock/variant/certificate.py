"""Certificates: smoke runs that passed, bound to a digest, a GPU and a driver; and the table of what is proven.

`certificates/<variant>/<gpu>x<count>.json`, with `-py311` and the like for a Python other than the variant's first. A
certificate whose digest is not today's is stale: it says what was once proven, of another lock.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import __version__, paths
from verlock.errors import RecipeError, VerlockError
from verlock.system import files
from verlock.variant import recipe_file
from verlock.variant.chosen import Chosen, choose, names

if TYPE_CHECKING:
    from verlock.variant.recipe import Recipe

SCHEMA = 1
CERTIFIED, STALE, NEVER = "certified", "stale", "never"
BEGIN, END = "<!-- status: begin, written by `verlock status --readme` -->", "<!-- status: end -->"


def file_name(gpu: str, count: int, python: str, default_python: str) -> str:
    """The certificate's file name: "NVIDIA H100 80GB HBM3", 1 -> h100-80gb-hbm3x1.json."""
    words = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-").removeprefix("nvidia-")
    suffix = "" if python == default_python else f"-py{python.replace('.', '')}"
    return f"{words}x{count}{suffix}.json"


def write(recipe: Recipe, python: str, sealed: dict[str, Any], result: dict[str, Any]) -> Path:
    """Write the certificate of a full pass; returns its path.

    Args:
        recipe, python: which variant.
        sealed: the environment's receipt.
        result: the whole report of `prove.run`.

    Raises:
        ValueError: the report is not of a full pass. Nothing is written then.
    """
    if (
        result["problems"]
        or not result["whole"]
        or result["unpatched"]
        or any(each["sabotage"] for each in result["runs"])
    ):
        raise ValueError("only a full pass makes a certificate")
    runs = [
        {key: value for key, value in each.items() if key not in ("facts", "fingerprint")} for each in result["runs"]
    ]
    facts = next(each["facts"] for each in result["runs"] if "facts" in each)
    verl = {key: value for key, value in result["verl"].items() if key != "overrides"}
    gpu = {**result["gpu"], "name": facts["gpu"]}  # torch's name of the one that ran: nvidia-smi lists others too
    data = {
        "schema": SCHEMA,
        "verlock": __version__,
        "variant": recipe.name,
        "python": python,
        "digest": result["digest"],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "gpu": gpu,
        "versions": facts["versions"],
        "engine": facts["engine"],
        "cuda": facts["cuda"],
        "nccl": facts["nccl"],
        "receipt": _receipt(sealed),
        "standin": bool(verl["standin"]),
        "seconds": result["seconds"],
        "runs": runs,
        "verl": verl,
    }
    path = paths.CERTIFICATES / recipe.name / file_name(gpu["name"], gpu["count"], python, recipe.python[0])
    files.write_whole(path, json.dumps(data, indent=1) + "\n")
    return path


def _receipt(sealed: dict[str, Any]) -> dict[str, Any]:
    """What of a receipt is the same on every machine: no paths, and of what is missing the names."""
    kept = {key: sealed.get(key) for key in ("created", "patches", "source", "editable")}
    base = {key: value for key, value in sealed["base"].items() if key in ("kind", "version")}
    return {**kept, "base": base, "missing": sorted(sealed["missing"])}


@dataclass(frozen=True)
class Row:
    """What is proven of one variant for one Python."""

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
    for name in names():
        certificates = read(name)
        try:
            first, *others = choose(name).valid().pythons()
        except VerlockError as error:
            found.append(Row(name, "", "", NEVER, note=error.problem.splitlines()[0]))
            continue
        proven = {each["python"] for each in certificates}
        shown = (first, *(each for each in others if each.python in proven))
        found += [_row(chosen, [each for each in certificates if each["python"] == chosen.python]) for chosen in shown]
    return found


def read(variant: str) -> list[dict[str, Any]]:
    """All certificates of a variant, the newest first."""
    there = sorted((paths.CERTIFICATES / variant).glob("*.json"))
    found: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in there]
    return sorted(found, key=lambda each: str(each["date"]), reverse=True)


@dataclass(frozen=True)
class Limit:
    """One sentence of certificates/<variant>/limits.toml, and a Markdown link to where that was seen."""

    says: str
    link: str


def limits(variant: str) -> list[Limit]:
    """What is known not to work with a variant, or was not tried.

    Raises:
        RecipeError: limits.toml is not TOML, or an entry lacks `says` or `seen`.
    """
    path = paths.CERTIFICATES / variant / "limits.toml"
    if not path.exists():
        return []
    try:
        entries = [(entry["says"], entry["seen"]) for entry in recipe_file.toml(path)["limit"]]
    except (KeyError, TypeError):
        raise RecipeError(
            f"{paths.shown(path)}: each [[limit]] has `says` and `seen`", "see another variant's"
        ) from None
    place = paths.shown(path.parent)
    return [
        Limit(says, f"[seen]({seen if seen.startswith('https://') else f'{place}/{seen}'})") for says, seen in entries
    ]


def _row(chosen: Chosen, certificates: list[dict[str, Any]]) -> Row:
    variant, python = chosen.name, chosen.python
    try:
        current = chosen.digest
    except VerlockError:
        return Row(variant, python, "", NEVER, note="not locked")
    if not certificates:
        return Row(variant, python, current, NEVER)
    valid = [each for each in certificates if each["digest"] == current]
    shown = valid or certificates[:1]
    gpus = ", ".join(
        dict.fromkeys(f"{each['gpu']['count']} x {each['gpu']['name'].removeprefix('NVIDIA ')}" for each in shown)
    )
    notes = dict.fromkeys(note for each in shown for note in _notes(each))
    return Row(
        variant, python, current, CERTIFIED if valid else STALE, gpus, str(shown[0]["date"])[:10], ", ".join(notes)
    )


def _notes(certificate: dict[str, Any]) -> list[str]:
    """What a certificate does not vouch for, in the table's words."""
    found = [f"{certificate['receipt']['base']['kind']} base"]
    if certificate["standin"]:
        found.append("verl's step with an sdpa stand-in for flash-attn")
    return found


def status(*, markdown: bool = False, write_readme: bool = False) -> int:
    """Print what is proven of each variant, as a table or as Markdown; or bring the README's table up to date."""
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
    colours = {CERTIFIED: "green", STALE: "yellow", NEVER: "dim"}
    for row in rows():
        cells = [escape(each) for each in (row.gpus, row.date, row.note)]
        table.add_row(row.variant, row.python, row.digest[:12], f"[{colours[row.state]}]{row.state}[/]", *cells)
    out = Console(highlight=False)
    (out if out.is_terminal else Console(highlight=False, width=150)).print(table)
    return 0


def as_markdown() -> str:
    """The table as the README holds it, and below it what each engine build is known not to do."""
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
        cells = (
            f"`{row.variant}`",
            loaded.vllm.version,
            engine,
            loaded.verl.version,
            pythons,
            row.state,
            proven,
            row.note,
        )
        lines.append(f"| {' | '.join(cells)} |")
    known = [f"- `{name}`: {limit.says} ({limit.link})" for name in names() for limit in limits(name)]
    return "\n".join([*lines, *(["", "Known limits:", "", *known] if known else [])])


def in_readme(text: str) -> str:
    """`text` with today's table between its markers; without markers it is returned as it is."""
    if BEGIN not in text or END not in text:
        return text
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{as_markdown()}\n{END}{after}"
