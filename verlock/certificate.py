"""Certificates: smoke runs that passed, bound to a digest, a GPU and a driver; and the table of what is proven.

`certificates/<variant>/<gpu>x<count>.json`, with `-py311` and the like for a Python other than the variant's first. A
certificate whose digest is not today's is stale: it says what was once proven, of another lock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock import __version__, digest, project
from verlock.errors import VerlockError
from verlock.parts import FULL, VERL, slug
from verlock.smoke import gates
from verlock.smoke.report import write_json

if TYPE_CHECKING:
    from verlock.launch import Part
    from verlock.recipe import Recipe

SCHEMA = 2
CERTIFIED, STALE, NEVER = "certified", "stale", "never"
BEGIN, END = "<!-- status: begin, written by `verlock status --readme` -->", "<!-- status: end -->"


def file_name(gpu: str, count: int, python: str, default_python: str) -> str:
    """The certificate's file name: "NVIDIA H100 80GB HBM3", 1 -> h100-80gb-hbm3x1.json."""
    suffix = "" if python == default_python else f"-py{python.replace('.', '')}"
    return f"{slug(gpu)}x{count}{suffix}.json"


def identity(python: str, digest: str, gpu: str, sealed: dict[str, Any]) -> dict[str, Any]:
    """What a certificate is bound to: parts of a full pass add up only where all of it is the same.

    Args:
        python, digest: of which lock.
        gpu: the GPU's name.
        sealed: the environment's receipt.
    """
    return {"digest": digest, "python": python, "gpu": gpu, "receipt": _receipt(sealed), "gates": list(gates.NAMES)}


def write(
    recipe: Recipe, bound: dict[str, Any], parts: dict[Part, dict[str, Any]], across: list[dict[str, Any]]
) -> Path:
    """Write the certificate of a full pass; returns its path.

    Args:
        recipe: which variant.
        bound: what `identity` says.
        parts: the launches as `parts.Kept` has them.
        across: what was compared between launches, as `Pass.as_dict` gives it.

    Raises:
        ValueError: a part of the full pass is missing or is not green. Nothing is written then.
    """
    everything = [*(data["run"] for data in parts.values()), *across]
    if set(parts) != set(FULL) or any(each["problem"] or each["sabotage"] for each in everything):
        raise ValueError("only a full pass makes a certificate")
    newest = max(parts.values(), key=lambda data: str(data["date"]))
    runs = [_run(data) for part, data in parts.items() if part != VERL]
    facts = next(data["run"]["facts"] for part, data in parts.items() if part != VERL)
    verl = _run(parts[VERL])
    count = max(run["gpus"] for run in runs)
    gpu = {
        "name": bound["gpu"],
        "count": count,
        "memory_mib": newest["memory_mib"],
        "driver": ", ".join(sorted({data["driver"] for data in parts.values()})),
    }
    data = {
        "schema": SCHEMA,
        "verlock": __version__,
        "variant": recipe.name,
        "python": bound["python"],
        "digest": bound["digest"],
        "date": newest["date"],
        "gpu": gpu,
        "layouts": list(dict.fromkeys(gates.layout(run["ranks"], run["gpus"]) for run in runs)),
        "versions": facts["versions"],
        "engine": facts["engine"],
        "cuda": facts["cuda"],
        "nccl": facts["nccl"],
        "receipt": bound["receipt"],
        "standin": bool(verl["standin"]),
        "seconds": round(sum(data["run"]["seconds"] for data in parts.values()), 1),
        "runs": [*runs, *across],
        "verl": verl,
    }
    path = project.CERTIFICATES / recipe.name / file_name(bound["gpu"], count, bound["python"], recipe.default_python)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data)
    return path


def _run(part: dict[str, Any]) -> dict[str, Any]:
    """A launch as a certificate holds it: with its day and driver, without what only a comparison needs."""
    left_out = ("facts", "fingerprint", "samples", "overrides")
    kept = {key: value for key, value in part["run"].items() if key not in left_out}
    return {**kept, "date": part["date"], "driver": part["driver"]}


def _receipt(sealed: dict[str, Any]) -> dict[str, Any]:
    """What of a receipt is the same on every machine and every day: no paths, and of what is missing the names."""
    kept = {key: sealed.get(key) for key in ("patches", "source", "editable")}
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
    from verlock import recipe

    found = []
    for name in recipe.names():
        certificates = read(name)
        try:
            loaded = recipe.load(name)
        except VerlockError as error:
            found.append(Row(name, "", "", NEVER, note=error.problem.splitlines()[0]))
            continue
        others = {each["python"] for each in certificates} - {loaded.default_python}
        shown = (loaded.default_python, *(each for each in loaded.python if each in others))
        found += [_row(name, python, [each for each in certificates if each["python"] == python]) for python in shown]
    return found


def read(variant: str) -> list[dict[str, Any]]:
    """All certificates of a variant, the newest first."""
    paths = sorted((project.CERTIFICATES / variant).glob("*.json"))
    found: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return sorted(found, key=lambda each: str(each["date"]), reverse=True)


def _row(variant: str, python: str, certificates: list[dict[str, Any]]) -> Row:
    try:
        current = digest.of(variant, python)
    except VerlockError:
        return Row(variant, python, "", NEVER, note="not locked")
    if not certificates:
        return Row(variant, python, current, NEVER)
    valid = [each for each in certificates if each["digest"] == current]
    shown = valid or certificates[:1]
    gpus = ", ".join(dict.fromkeys(map(_where, shown)))
    note = "verl's step with an sdpa stand-in for flash-attn" if any(each["standin"] for each in shown) else ""
    return Row(variant, python, current, CERTIFIED if valid else STALE, gpus, str(shown[0]["date"])[:10], note)


def _where(certificate: dict[str, Any]) -> str:
    """On which GPUs, and with how many ranks on them where there were several."""
    gpu = certificate["gpu"]
    ranks = [each for each in certificate.get("layouts", []) if each != gates.layout(1, 1)]
    return f"{gpu['count']} x {gpu['name'].removeprefix('NVIDIA ')}{f' ({ranks[-1]})' if ranks else ''}"


def status(*, markdown: bool = False, write_readme: bool = False) -> int:
    """Print what is proven of each variant, as a table or as Markdown; or bring the README's table up to date."""
    if write_readme:
        readme = project.ROOT / "README.md"
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
    from verlock import recipe

    lines = [
        "| variant | vLLM | engine | verl | Python | state | proven on | note |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows():
        try:
            loaded = recipe.load(row.variant)
        except VerlockError:
            lines.append(f"| `{row.variant}` | | | | | {row.state} | | {row.note} |")
            continue
        pythons = row.python if row.python != loaded.default_python else ", ".join(loaded.python)
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
    limits: dict[str, list[str]] = {}
    for name in recipe.names():
        try:
            for sentence in recipe.load(name).vllm.limits:
                limits.setdefault(sentence, []).append(f"`{name}`")
        except VerlockError:
            continue
    known = [f"- {', '.join(names)}: {sentence}" for sentence, names in limits.items()]
    return "\n".join([*lines, *(["", "Known limits of these engine builds:", "", *known] if known else [])])


def in_readme(text: str) -> str:
    """`text` with today's table between its markers; without markers it is returned as it is."""
    if BEGIN not in text or END not in text:
        return text
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    return f"{before}{BEGIN}\n{as_markdown()}\n{END}{after}"
