"""`verlock relocate`: a built, verified environment as one archive, for nodes that only get files.

The archive holds the environment's folder, the interpreter that it stands on where that is the host's (in `.python`, beside it),
and a script that mends at the new place what names the old one (`mend.py`). Byte code stays behind: Python writes it again.
"""

from __future__ import annotations

import json
import mmap
import tarfile
from pathlib import Path
from typing import Any

from verlock import console
from verlock.env import installed, verify
from verlock.errors import RelocateRefused
from verlock.shipping import mend, trees
from verlock.shipping.trees import Interpreter
from verlock.system import files, host_python
from verlock.variant import receipt
from verlock.variant.chosen import Chosen


def run(chosen: Chosen, to: Path) -> int:
    """Write the archive `to`, whole or not at all. Returns 0.

    Raises:
        NotSealed and the other errors of `verify`: the environment is not what its lock says.
        RelocateRefused: something in it cannot be moved.
        BundleRefused: the host's CPython cannot be carried.
    """
    prefix = chosen.prefix
    with console.step("verify", str(prefix)):
        verify.raise_for(chosen.name, prefix, verify.inspect(chosen))
    sealed = receipt.read(prefix)
    if sealed["editable"]:
        beside = ", ".join(each["checkout"] for each in sealed["editable"].values())
        raise RelocateRefused(
            f"{prefix} imports from checkouts outside it: {beside}", "env with `--editable none` first"
        )
    to = to.absolute()
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = files.draft_of(to)
    try:
        with console.step("archive", str(to)) as step, tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as archive:
            _write(archive, prefix, sealed)
            step.detail = f"{to}, {draft.stat().st_size / 1e9:.2f} GB"
        draft.replace(to)
    finally:
        draft.unlink(missing_ok=True)
    console.say(f"where it is needed: tar -xf {to.name}, and then ./mend-{prefix.name}")
    return 0


def _write(archive: tarfile.TarFile, prefix: Path, sealed: dict[str, Any]) -> None:
    made_at = str(sealed["prefix"])
    tree = _interpreter(sealed) if sealed["base"]["kind"] == "host" else None
    facts: dict[str, Any] = {"from": made_at, "python": None, "text": {}, "binary": {}}
    needles = [made_at.encode()]
    if tree:
        needles.append(str(tree.root).encode())
        facts["python"] = _pack(archive, tree, sealed)
    rooms = _rooms(prefix)
    for folder, entries in receipt.walk(prefix):
        for entry in sorted(entries, key=lambda each: each.name):
            path = Path(entry.path)
            name = str(path.relative_to(prefix))
            if name.endswith(".pyc"):
                continue
            if not path.is_symlink() and name != receipt.NAME and (kind := _names(path, needles)):
                _note(facts, name, path, kind, rooms)
            trees.add(archive, path, f"{prefix.name}/{name}")
        if not entries and not any(Path(folder).iterdir()):
            empty = tarfile.TarInfo(f"{prefix.name}/{Path(folder).relative_to(prefix)}")
            empty.type, empty.mode, empty.mtime = tarfile.DIRTYPE, 0o755, trees.EPOCH
            archive.addfile(empty)
    program = f"{facts['python']['to']}/{facts['python']['program']}" if tree else f"{prefix.name}/bin/python"
    script = Path(mend.__file__).read_text(encoding="utf-8").replace("$here/PYTHON", f"$here/{program}")
    trees.add_text(archive, f"{prefix.name}/{mend.FACTS}", json.dumps(facts))
    trees.add_text(archive, f"mend-{prefix.name}", script, program=True)


def _interpreter(sealed: dict[str, Any]) -> Interpreter:
    """The tree of the CPython that an environment stands on. Raises RelocateRefused, BundleRefused."""
    program = Path(sealed["base"]["from"])
    found = host_python.probe(program)
    tree = trees.interpreter(found) if found else None
    if tree is None or not program.is_relative_to(tree.root):
        raise RelocateRefused(
            f"the interpreter {program} {'is not within ' + str(tree.root) if tree else 'does not run'}",
            "make the environment on a CPython that is in one folder, or on the conda base",
        )
    return tree


def _pack(archive: tarfile.TarFile, tree: Interpreter, sealed: dict[str, Any]) -> dict[str, Any]:
    """Add the interpreter; returns what `mend` has to know of it."""
    names = set(tree.names)
    listed = {}
    for path in sealed["base"]["interpreter"]:
        name = str(Path(path).relative_to(tree.root)) if Path(path).is_relative_to(tree.root) else ""
        if name not in names:
            raise RelocateRefused(
                f"{path} belongs to the interpreter and is not within {tree.root}", "use the conda base"
            )
        listed[name] = tree.sha256(name)
    to = f".python/cpython-{tree.version}-{next(iter(listed.values()))[:12]}"
    for name in tree.names:
        trees.add(archive, tree.root / name, f"{to}/{name}", tree.changed.get(name))
    program = str(Path(sealed["base"]["from"]).relative_to(tree.root))
    return {"from": str(tree.root), "to": to, "program": program, "sha256": listed}


def _names(path: Path, needles: list[bytes]) -> str:
    """Whether a file names one of these places: "text", "binary" (it holds zeros too), or "" where it does not."""
    if not path.stat().st_size:
        return ""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if all(data.find(needle) < 0 for needle in needles):
            return ""
        return "text" if data.find(b"\0") < 0 else "binary"


def _note(facts: dict[str, Any], name: str, path: Path, kind: str, rooms: dict[str, int]) -> None:
    """Note a file that names an old place. Raises RelocateRefused where it cannot be mended."""
    sha256 = files.sha256(path)
    if kind == "text":
        facts["text"][name] = sha256
    elif name in rooms:
        facts["binary"][name] = {"sha256": sha256, "room": rooms[name]}
    else:
        raise RelocateRefused(
            f"{path} names the place of the environment, and has no room for another",
            "leave out the package that it belongs to, or make the environment where it is to be",
        )


def _rooms(prefix: Path) -> dict[str, int]:
    """Of the conda layer's programs that hold the prefix: how many bytes were left for it, by their path in the prefix."""
    found = {}
    for path in installed.conda_records(prefix):
        for item in json.loads(path.read_text(encoding="utf-8"))["paths_data"]["paths"]:
            if item.get("file_mode") == "binary" and item.get("prefix_placeholder"):
                found[item["_path"]] = len(item["prefix_placeholder"])
    return found
