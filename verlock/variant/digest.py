"""The digest: one sha256 over what makes a variant, for one Python. Receipts and certificates are bound to it.

It is taken over one JSON document (`form`): the pins of every lock, the patches, and those fields of the recipe, after its
includes are merged, that change bytes in the prefix or how the engine starts (`COUNTS`). So recipes may be rearranged,
comments reworded and limits of a machine corrected without making a certificate stale. It is computed at every
`verlock create`, so nothing heavy is imported here.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import LockError, RecipeError
from verlock.variant import lockfiles, recipe_file

# Fields of the recipe that the digest covers, by their place in the merged recipe.
COUNTS = frozenset(
    {
        "vllm.engine",
        "vllm.environment",
        "vllm.llm",
        "vllm.sleep_mode",
        "vllm.cuda_graphs",
        "verl.flags",
        # of the one file that fits torch and Python:
        "artefact.package",
        "artefact.version",
        "artefact.file.sha256",
        "source.package",
        "source.version",
        "source.commit",
        "source.tree",
        "source.date",
        "source.precompiled.sha256",
        "patch.file",
    }
)
# Fields that it does not cover, and why: a test holds the two against the model, so a new field has to be put into one.
LEFT_OUT = {
    "summary": "prose",
    "include": "the merged recipe counts",
    "python": "each Python has a digest of its own",
    "cutoff.date": "acts on the locks alone, and their pins count",
    "vllm.version": "the pin counts, or the source's version; create compares it",
    "vllm.compiles": "acts on the conda layer, and its pins count",
    "verl.version": "the pin counts; create compares it",
    "torch.version": "the pin counts; it chooses the artefact's file, whose sha256 counts",
    "torch.cxx11abi": "a property of the pinned torch; it chooses the artefact's file, whose sha256 counts",
    "cuda.version": "a property of the pinned torch",
    "cuda.min_driver": "what a machine must have",
    "platform.subdir": "acts on the locks alone",
    "platform.glibc": "acts on the locks, and on what a machine must have",
    "platform.linux": "acts on the locks alone",
    "platform.disk": "what a machine must have",
    "sdist.package": "the pin has the sdist's hash",
    "prerelease.package": "the pin counts",
    "artefact.optional": "what is missing stands in receipt and certificate",
    "artefact.file.torch": "chooses the file, whose sha256 counts",
    "artefact.file.cxx11abi": "chooses the file, whose sha256 counts",
    "artefact.file.python": "chooses the file, whose sha256 counts",
    "artefact.file.url": "where it comes from; the sha256 says what it is",
    "source.url": "where it comes from; the tree says what it is",
    "source.subject": "prose",
    "source.precompiled.package": "where it comes from; the sha256 says what it is",
    "source.precompiled.version": "where it comes from; the sha256 says what it is",
    "source.precompiled.filename": "where it comes from; the sha256 says what it is",
    "source.precompiled.size": "the sha256 says what it is",
    "patch.package": "the patch names its files",
    "patch.why": "prose",
    "patch.upstream": "prose",
    "patch.upstream_link": "prose",
    "verl.flags_reason": "prose",
    "*.reason": "prose",
    "*.link": "prose",
}
_CONDA_PACKAGE = re.compile(r"^  url: (\S+)\n  hash:\n(?:    md5: \S+\n)?    sha256: ([0-9a-f]{64})$", re.MULTILINE)


def of(variant: str, python: str | None = None) -> str:
    """The hex sha256 of one variant for one Python (its default one when None).

    Raises:
        RecipeError: recipe.toml is not TOML (whether it fits the model is `recipe.load`'s question).
        LockError: there is no lock for this Python, or it cannot be read.
    """
    data = raw(variant)
    return of_form(form(data, variant, python or data["python"][0]))


def of_form(document: dict[str, Any]) -> str:
    """The hex sha256 of a form: of its JSON with sorted keys and without blanks."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def form(data: dict[str, Any], variant: str, python: str) -> dict[str, Any]:
    """The document that the digest is taken over.

    Args:
        data: the merged recipe (`raw`).
        variant, python: whose locks to read.

    Raises LockError for a lock that is missing or cannot be read.
    """
    folder = paths.lock_dir(variant, python, data["python"][0])
    for name in (lockfiles.CONDA_LOCK, lockfiles.REQUIREMENTS, lockfiles.BUILD_REQUIREMENTS):
        if not (folder / name).exists():
            raise LockError(
                f"{variant} has no {name} for Python {python}",
                f"`nox -s lock -- {variant}` makes it; or name another Python",
            )
    return {
        "python": python,
        "conda": _conda(folder / lockfiles.CONDA_LOCK),
        "pip": _pins(folder / lockfiles.REQUIREMENTS),
        "build": _pins(folder / lockfiles.BUILD_REQUIREMENTS),
        "sources": _sources(folder / lockfiles.SOURCES),
        "patches": [_patch(variant, item) for item in data.get("patch", [])],
        "recipe": {key: value for key, value in _counted(_fitting(data, python)).items() if key != "patch"},
    }


def raw(variant: str) -> dict[str, Any]:
    """The merged recipe, not validated. Raises RecipeError when it is not TOML or names no Python."""
    data = recipe_file.read(paths.RECIPES / variant / "recipe.toml")
    pythons = data.get("python")
    if not isinstance(pythons, list) or not pythons or not isinstance(pythons[0], str):
        from verlock.variant import recipe

        recipe.load(variant)  # says what is wrong
        raise RecipeError(f"recipes/{variant}/recipe.toml names no Python") from None
    return data


def artefact_files(variant: str, python: str) -> list[tuple[str, dict[str, Any]]]:
    """Package and file (`url`, `sha256`) of each artefact that fits the variant's torch and this Python, not validated."""
    return [(item["package"], item["file"][0]) for item in _fitting(raw(variant), python)["artefact"]]


def _conda(path: Path) -> list[list[str]]:
    """URL and sha256 of each package of a conda-lock.yml, sorted; the YAML is read by its form, which is conda-lock's."""
    text = path.read_text(encoding="utf-8")
    found = [list(pair) for pair in _CONDA_PACKAGE.findall(text)]
    if len(found) != len(re.findall(r"^- name: ", text, re.MULTILINE)):
        raise LockError(
            f"{paths.shown(path)} has packages without a sha256",
            "restore it from git, or make it again with `nox -s lock`",
        )
    return sorted(found)


def _pins(path: Path) -> list[list[Any]]:
    return sorted([pin.name, pin.version, pin.marker, *sorted(pin.hashes)] for pin in lockfiles.pins(path))


def _sources(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        raise LockError(
            f"{paths.shown(path)} is not JSON", "restore it from git, or lock again: `nox -s lock`"
        ) from None


def _patch(variant: str, item: dict[str, Any]) -> list[str]:
    """Name and sha256 of a patch file that the recipe names; an absent one counts as such, and is refused where it is needed."""
    path = paths.RECIPES / variant / "patches" / str(item.get("file"))
    return [path.name, of_file(path) if path.is_file() else ""]


def _fitting(data: dict[str, Any], python: str) -> dict[str, Any]:
    """The merged recipe with only that file of each artefact which fits its torch and this Python."""
    torch = data.get("torch", {})
    wanted = (torch.get("version"), torch.get("cxx11abi"), python)
    artefacts = [
        {**item, "file": [each for each in item.get("file", []) if _fit(each) == wanted]}
        for item in data.get("artefact", [])
    ]
    chosen = sorted((item for item in artefacts if item["file"]), key=lambda item: str(item.get("package")))
    return {**data, "artefact": chosen}


def _fit(file: dict[str, Any]) -> tuple[Any, Any, Any]:
    return file.get("torch"), file.get("cxx11abi"), file.get("python")


def _counted(value: Any, place: str = "") -> Any:
    """What of the recipe counts; empty tables and lists are as if they were not there."""
    if place in COUNTS:
        return value
    if isinstance(value, dict):
        inner = {key: _counted(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item not in (None, {}, [])}
    if isinstance(value, list):
        return [inner for item in value if (inner := _counted(item, place)) not in (None, {}, [])]
    return None


def of_file(path: Path) -> str:
    """The hex sha256 of one file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()
