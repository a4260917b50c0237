"""Certificates as files: smoke runs that passed, bound to a digest, a GPU and a driver; and the limits beside them.

A certificate is written as an in-toto statement, whose subject is the digest and whose predicate tells what ran, so that a site
can sign it with the tools that it has. An older one is the bare predicate; both are read.

`certificates/<variant>/<gpu>x<count>.json`, with `-py311` and the like for a Python other than the variant's first. A
certificate whose digest is not today's is stale: it says what was once proven, of another lock.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import CertificateError, RecipeError
from verlock.variant import lockfiles, recipe_file
from verlock.variant.shape import EACH, fits

# https://github.com/in-toto/attestation, spec/v1/statement.md and spec/predicates/test-result.md
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
OWN = "verlock"  # the field of the predicate that holds the certificate itself

SHAPE = {
    **dict.fromkeys(("date", "python", "digest"), str),
    "gpu": {"name": str, "count": int},
    "layouts": (None, [str]),
    "standin": bool,  # of verl's own steps, which a pass over nodes does not have
    "flash_attn": (None, dict),
    "receipt": {
        "base": {"kind": str, "version": str},
        "missing": [str],
        "site_wheels": (None, {EACH: {"version": str, "sha256": str}}),
    },
}

OVER_NODES = {**{key: value for key, value in SHAPE.items() if key != "standin"}, "layouts": [str], "nodes": int}


def slug(gpu: str) -> str:
    """A GPU's name in a file name: "NVIDIA H100 80GB HBM3" -> h100-80gb-hbm3."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-").removeprefix("nvidia-")


def file_name(gpu: str, count: int, python: str, default_python: str) -> str:
    """The certificate's file name: "NVIDIA H100 80GB HBM3", 1 -> h100-80gb-hbm3x1.json."""
    suffix = "" if python == default_python else f"-py{python.replace('.', '')}"
    return f"{slug(gpu)}x{count}{suffix}.json"


def folder(variant: str, nodes: int = 1) -> Path:
    """Where the certificates of a variant are; those of passes over several nodes have a folder for each number of nodes."""
    found = paths.CERTIFICATES / variant
    return found / f"{nodes}-nodes" if nodes > 1 else found


def statement(certificate: dict[str, Any]) -> dict[str, Any]:
    """A certificate (as `verlock.proving.certify` makes it) as an in-toto statement about its digest: a test result, passed."""
    subject = {
        "name": f"{certificate['variant']} for Python {certificate['python']}",
        "digest": {"sha256": certificate["digest"]},
    }
    receipt = certificate["receipt"]
    hashed = [(each["file"], each["sha256"]) for each in receipt["patches"]]
    hashed += [(each["file"], each["sha256"]) for each in receipt["site_wheels"].values()]
    runs = [*certificate["runs"], *([certificate["verl"]] if "verl" in certificate else [])]
    predicate = {
        "result": "PASSED",
        "configuration": [subject, *({"name": name, "digest": {"sha256": sha256}} for name, sha256 in hashed)],
        "passedTests": [f"{run['mode']}, ranks {run.get('ranks', 1)}, TP={run['tp']}: gate {gate['id']}"
                        for run in runs for gate in run["gates"]],
        OWN: certificate,
    }  # fmt: skip
    return {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": predicate}


def of(content: dict[str, Any]) -> dict[str, Any]:
    """The certificate in a file's content: out of a statement, or the content itself.

    Raises KeyError, TypeError, IndexError or ValueError for a statement about something else than its certificate.
    """
    if "_type" not in content:
        return content
    certificate: dict[str, Any] = content["predicate"][OWN]
    (subject,) = content["subject"]
    stated = (content["_type"], content["predicateType"], content["predicate"]["result"], subject["digest"]["sha256"])
    if stated != (STATEMENT, PREDICATE, "PASSED", certificate["digest"]):
        raise ValueError("the statement is not about its certificate")
    return certificate


def read(variant: str) -> list[dict[str, Any]]:
    """All certificates of a variant, the newest first. Raises CertificateError."""
    return _all(sorted(folder(variant).glob("*.json")), SHAPE)


def over_nodes(variant: str) -> list[dict[str, Any]]:
    """All certificates of passes that spanned nodes, the newest first: they stand beside a full pass on one machine, not for it.

    Raises CertificateError.
    """
    return _all(sorted(folder(variant).glob("*-nodes/*.json")), OVER_NODES)


def _all(files: list[Path], shape: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted((_read(path, shape) for path in files), key=lambda each: str(each["date"]), reverse=True)


def _read(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    try:
        data = of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        data = {}
    if not fits(data, shape):
        raise CertificateError(f"{paths.shown(path)} is not a certificate", lockfiles.restore(path))
    return data


@dataclass(frozen=True)
class Limit:
    """One sentence of certificates/<variant>/limits.toml, and a Markdown link to where that was seen."""

    says: str
    link: str


def limits(variant: str) -> list[Limit]:
    """What is known not to work with a variant, or was not tried.

    Raises:
        RecipeError: limits.toml is not TOML, or an entry has no `says` or no `seen`.
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
