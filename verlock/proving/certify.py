"""Makes the certificate of a full pass, and says what it is bound to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verlock import __version__
from verlock.proving.passes import FULL, VERL, Part, over_nodes
from verlock.smoke import gates
from verlock.system import files
from verlock.variant import certificate
from verlock.variant.chosen import Chosen

SCHEMA = 2


def identity(chosen: Chosen, gpu: str, sealed: dict[str, Any]) -> dict[str, Any]:
    """What a certificate is bound to: parts of a full pass count together only if all of this is the same.

    Args:
        chosen: which variant and Python.
        gpu: the GPU's name.
        sealed: the environment's receipt.
    """
    return {
        "digest": chosen.digest,
        "python": chosen.python,
        "gpu": gpu,
        "receipt": _receipt(sealed),
        "gates": list(gates.NAMES),
    }


def said(bound: dict[str, Any]) -> dict[str, str]:
    """What `identity` returned, in words: the nodes of a run must have it alike."""
    receipt = bound["receipt"]
    wheels = (f"{name} {each['sha256'][:8]}" for name, each in receipt["site_wheels"].items())
    return {
        "verlock": __version__,
        "the digest": bound["digest"][:12],
        "Python": bound["python"],
        "the GPU": bound["gpu"],
        "the base": f"{receipt['base']['kind']} {receipt['base']['version']}",
        "what is missing": ", ".join(receipt["missing"]) or "nothing",
        "the site wheel": ", ".join(wheels) or "none",
    }


def write(
    chosen: Chosen, bound: dict[str, Any], parts: dict[Part, dict[str, Any]], across: list[dict[str, Any]]
) -> Path:
    """Write the certificate of a full pass, or of a pass over nodes, as an in-toto statement; returns its path.

    Args:
        chosen: which variant.
        bound: what `identity` returned.
        parts: the launches as `kept_parts.Kept` returns them.
        across: what was compared between launches, as `Pass.as_dict` gives it.

    Raises:
        ValueError: a part of the pass is missing or is not green. Nothing is written then.
    """
    everything = [*(data["run"] for data in parts.values()), *across]
    nodes, ranks = max((part.nodes, part.ranks) for part in parts) if parts else (1, 1)
    whole = over_nodes(nodes, ranks) if nodes > 1 else FULL
    if set(parts) != set(whole) or any(each["problem"] or each["sabotage"] for each in everything):
        raise ValueError("only a full pass makes a certificate")
    newest = max(parts.values(), key=lambda data: str(data["date"]))
    runs = [_run(data) for part, data in parts.items() if part != VERL]
    facts = next(data["run"]["facts"] for part, data in parts.items() if part != VERL)
    count = max(run["gpus"] for run in runs)
    gpu = {
        "name": gpu_name(parts),
        "count": count,
        "memory_mib": newest["memory_mib"],
        "driver": ", ".join(sorted({data["driver"] for data in parts.values()})),
    }
    data = {
        "schema": SCHEMA,
        "verlock": __version__,
        "variant": chosen.name,
        "python": bound["python"],
        "digest": bound["digest"],
        "date": newest["date"],
        "gpu": gpu,
        "layouts": list(dict.fromkeys(gates.layout(run["ranks"], run["gpus"], run.get("nodes", 1)) for run in runs)),
        "versions": facts["versions"],
        "engine": facts["engine"],
        "cuda": facts["cuda"],
        "nccl": facts["nccl"],
        "receipt": bound["receipt"],
        **({"nodes": nodes} if nodes > 1 else {"standin": bool(parts[VERL]["run"]["standin"])}),
        "flash_attn": facts.get("flash_attn", {}),
        "seconds": round(sum(data["run"]["seconds"] for data in parts.values()), 1),
        "runs": [*runs, *across],
        **({} if nodes > 1 else {"verl": _run(parts[VERL])}),
    }
    name = certificate.file_name(gpu_name(parts), count, bound["python"], chosen.first_python)
    path = certificate.folder(chosen.name, nodes) / name
    files.write_whole(path, json.dumps(certificate.statement(data), indent=1) + "\n")
    return path


def gpu_name(parts: dict[Part, dict[str, Any]]) -> str:
    """The name of the GPU that these launches ran on, as torch tells it: it is the one in the certificate."""
    return str(next(data["run"]["facts"]["gpu"] for part, data in parts.items() if part != VERL))


def _run(part: dict[str, Any]) -> dict[str, Any]:
    """A launch as a certificate holds it: with its date and driver, without what only comparisons need."""
    left_out = ("facts", "fingerprint", "samples", "overrides")
    kept = {key: value for key, value in part["run"].items() if key not in left_out}
    return {**kept, "date": part["date"], "driver": part["driver"]}


def _receipt(sealed: dict[str, Any]) -> dict[str, Any]:
    """The part of a receipt that is the same on every machine and day: no paths, and only the names of what is missing."""
    kept = {key: sealed.get(key) for key in ("patches", "source", "editable")}
    base = {key: value for key, value in sealed["base"].items() if key in ("kind", "version")}
    return {**kept, "base": base, "missing": sorted(sealed["missing"]), "site_wheels": sealed["site_wheels"]}
