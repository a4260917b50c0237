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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verlock import paths
from verlock.errors import LockError
from verlock.system import files
from verlock.variant import lockfiles

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
        "override.requirer",
        "override.requirement",
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
    "torch.capabilities": "what a machine must have",
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
    "artefact.sdist.filename": "what `build-flash-attn` builds; the wheel's own hash stands in the receipt",
    "artefact.sdist.sha256": "what `build-flash-attn` builds; the wheel's own hash stands in the receipt",
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
    "accepted.package": "says what `audit` need not say; changes no byte",
    "accepted.id": "says what `audit` need not say; changes no byte",
    "accepted.date": "says what `audit` need not say; changes no byte",
    "*.reason": "prose",
    "*.link": "prose",
}
_CONDA_PACKAGE = re.compile(r"^  url: (\S+)\n  hash:\n(?:    md5: \S+\n)?    sha256: ([0-9a-f]{64})$", re.MULTILINE)


def of_form(document: dict[str, Any]) -> str:
    """The hex sha256 of a form: of its JSON with sorted keys and without blanks."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def form(data: Mapping[str, Any], python: str, locks: Path, patches: Path) -> dict[str, Any]:
    """The document that the digest is taken over.

    Args:
        data: the merged recipe (`recipe_file.read`), not validated.
        python: which Python, such as "3.10".
        locks, patches: the folders of its locks and of the variant's patch files.

    Raises LockError for a lock that is missing or cannot be read.
    """
    pip = _pins(locks / lockfiles.REQUIREMENTS)
    if not pip:  # an environment without a package could be made of it, and would be made again at every run
        path = locks / lockfiles.REQUIREMENTS
        raise LockError(f"{paths.shown(path)} has no pins", lockfiles.restore(path))
    return {
        "python": python,
        "conda": _conda(locks / lockfiles.CONDA_LOCK),
        "pip": pip,
        "build": _pins(locks / lockfiles.BUILD_REQUIREMENTS),
        "sources": _sources(locks / lockfiles.SOURCES),
        "patches": [_patch(patches / str(item.get("file"))) for item in data.get("patch", [])],
        "recipe": {key: value for key, value in _counted(_fitting(data, python)).items() if key != "patch"},
    }


def artefact_files(data: Mapping[str, Any], python: str) -> list[tuple[str, dict[str, Any]]]:
    """Package and file (`url`, `sha256`) of each artefact that fits a merged recipe's torch and this Python, not validated."""
    return [(item["package"], item["file"][0]) for item in _fitting(data, python)["artefact"]]


def _conda(path: Path) -> list[list[str]]:
    """URL and sha256 of each package of a conda-lock.yml, sorted; the YAML is read by its form, which is conda-lock's."""
    text = lockfiles.text_of(path)
    found = [list(pair) for pair in _CONDA_PACKAGE.findall(text)]
    if len(found) != len(re.findall(r"^- name: ", text, re.MULTILINE)):
        raise LockError(
            f"{paths.shown(path)} has packages without a sha256",
            lockfiles.restore(path),
        )
    return sorted(found)


def _pins(path: Path) -> list[list[Any]]:
    return sorted([pin.name, pin.version, pin.marker, *sorted(pin.hashes)] for pin in lockfiles.pins(path))


def _sources(path: Path) -> Any:
    try:
        return json.loads(lockfiles.text_of(path)) if path.exists() else None
    except ValueError:
        raise LockError(f"{paths.shown(path)} is not JSON", lockfiles.restore(path)) from None


def _patch(path: Path) -> list[str]:
    """Name and sha256 of a patch file that the recipe names; an absent one counts as such, and is refused where it is needed."""
    return [path.name, files.sha256_if_there(path) or ""]


def _fitting(data: Mapping[str, Any], python: str) -> dict[str, Any]:
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
