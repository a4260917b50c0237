#!/bin/sh
""":"
# An environment of verlock that was unpacked here from an archive (`verlock relocate`). Run this once: it mends what names the
# place where the environment was made. Nothing else is needed. It begins as a shell script, which starts it again with the
# Python of the environment, and is the same file as verlock/shipping/mend.py but for the next two lines.
here=$(cd -- "$(dirname -- "$0")" && pwd -P) || exit
exec "$here/PYTHON" -I -S -B "$here/$(basename -- "$0")" "$here"
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FACTS = ".verlock-moving.json"  # in the prefix: what has to be mended; deleted at the end
RECEIPT = "verlock.json"
SHEBANG = 127  # bytes of a script's first line that every Linux reads
_PLAIN = re.compile(r"/[A-Za-z0-9_./+@%=-]*")  # what needs no quotes in any shell


class Refused(Exception):
    """What stops the mending, for people."""


def mend(here: Path, name: str) -> bool:
    """Mend the environment `name` in the folder `here`. Returns False where it was mended before.

    Every step may be repeated: a run that was killed is made up for by the next one. Raises Refused, OSError.
    """
    prefix = here / name
    if not (prefix / FACTS).exists():
        return False
    facts: dict[str, Any] = json.loads((prefix / FACTS).read_text(encoding="utf-8"))
    sealed: dict[str, Any] = json.loads((prefix / RECEIPT).read_text(encoding="utf-8"))
    places = {facts["from"]: str(prefix)}
    if facts["python"]:
        places[facts["python"]["from"]] = str(here / facts["python"]["to"])
    _refuse(places, facts)
    before = {**facts["text"], **{path: each["sha256"] for path, each in facts["binary"].items()}}
    for path, sha256 in facts["text"].items():
        _replaced(prefix / path, sha256, lambda data: text(data, places))
    for path, each in facts["binary"].items():
        old, new = facts["from"].encode(), str(prefix).encode()
        room = each["room"]
        _replaced(prefix / path, each["sha256"], lambda data: binary(data, old, new, room))  # noqa: B023 (called here)
    after = {path: _sha256((prefix / path).read_bytes()) for path in before}
    _records(prefix, sealed, before, after)
    _conda(prefix, after)
    _links(prefix, sealed, places)
    for path in sealed["files"]:
        if not sealed["files"][path].startswith("link:") and (path in after or path.startswith("conda-meta/")):
            sealed["files"][path] = _sha256((prefix / path).read_bytes())
    if facts["python"]:
        python = places[facts["python"]["from"]]
        sealed["base"]["from"] = f"{python}/{facts['python']['program']}"
        sealed["base"]["interpreter"] = {f"{python}/{path}": each for path, each in facts["python"]["sha256"].items()}
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    moved = {"from": facts["from"], "to": str(prefix), "when": when}
    sealed["moved"] = [*(sealed.get("moved") or []), moved]
    sealed |= {"prefix": str(prefix), "fingerprint": ""}  # every file is looked at before the next use of verlock
    _write(prefix / RECEIPT, json.dumps(sealed, indent=1, sort_keys=True).encode())
    (prefix / FACTS).unlink()
    return True


def _refuse(places: dict[str, str], facts: dict[str, Any]) -> None:
    """Raises Refused where an environment cannot work at the new place."""
    prefix = places[facts["from"]]
    if not _PLAIN.fullmatch(prefix):
        raise Refused(f"{prefix} has characters that need quotes in a shell: unpack the archive in another folder")
    if len(f"#!{prefix}/bin/python3") > SHEBANG:
        raise Refused(
            f"{prefix} is too long a path for the first line of a script: unpack the archive in another folder"
        )
    room = min((each["room"] for each in facts["binary"].values()), default=len(prefix))
    if len(prefix) > room:
        raise Refused(f"{prefix} is longer than the {room} characters that its programs have room for")


def text(data: bytes, places: dict[str, str]) -> bytes:
    """A text with every old place replaced by the new one, in one go: a new place may hold an old one's path."""
    old = sorted((each.encode() for each in places), key=len, reverse=True)
    pattern = re.compile(b"|".join(re.escape(each) + rb"(?![A-Za-z0-9_.+-])" for each in old))
    return pattern.sub(lambda found: places[found[0].decode()].encode(), data)


def binary(data: bytes, old: bytes, new: bytes, room: int) -> bytes:
    """A program with the path in its strings replaced; each string ends in zeros, so that nothing else changes its place.

    `room`: bytes that stood for the path when it was compiled; what the old path left of them are zeros now.
    """

    def replaced(found: re.Match[bytes]) -> bytes:
        string, zeros = found[1], found[2]
        changed = string.replace(old, new)
        spare = len(zeros) - 1  # one of them ends the string
        more = len(changed) - len(string)
        if more > spare or more > string.count(old) * (room - len(old)):
            raise Refused(f"a program has no room for {new.decode()}")
        return changed + b"\0" * (len(zeros) - more)

    return re.sub(b"([^\\0]*" + re.escape(old) + b"[^\\0]*)(\\0+)", replaced, data)


def _replaced(path: Path, before: str, change: Any) -> None:
    data = path.read_bytes()
    if _sha256(data) == before:  # else an earlier run did it
        _write(path, change(data))


def _records(prefix: Path, sealed: dict[str, Any], before: dict[str, str], after: dict[str, str]) -> None:
    """Have each package's RECORD name the new hashes of its files, and the receipt those of the RECORDs."""
    for path in sorted(prefix.glob("lib/python3*/site-packages/*.dist-info/RECORD")):
        site = path.parent.parent
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        changed = False
        for row in rows:
            own = os.path.relpath(os.path.normpath(os.path.join(site, row[0])), prefix) if row else ""  # noqa: PTH118
            if own in after and row[1] == f"sha256={_base64(before[own])}" != f"sha256={_base64(after[own])}":
                row[1:] = [f"sha256={_base64(after[own])}", str((prefix / own).stat().st_size)]
                changed = True
        if changed:
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows(rows)
            _write(path, out.getvalue().encode())
        name = re.sub(r"[-_.]+", "-", path.parent.name.partition("-")[0]).lower()
        if name in sealed["packages"]:
            sealed["packages"][name]["record"] = _sha256(path.read_bytes())


def _conda(prefix: Path, after: dict[str, str]) -> None:
    """Have conda's record of each package name the new hashes of its files."""
    for path in sorted((prefix / "conda-meta").glob("*-*-*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        owned = [item for item in content["paths_data"]["paths"] if item["_path"] in after]
        for item in owned:
            item["sha256_in_prefix"] = after[item["_path"]]
        if owned:
            _write(path, json.dumps(content, indent=2).encode())


def _links(prefix: Path, sealed: dict[str, Any], places: dict[str, str]) -> None:
    """Have every link that led to an old place lead to the new one."""
    for path, value in sealed["files"].items():
        if value.startswith("link:/"):
            target = text(os.fsencode(value[5:]), places).decode()
            sealed["files"][path] = f"link:{target}"
            draft = prefix / f"{path}.moving"
            draft.unlink(missing_ok=True)
            draft.symlink_to(target)
            draft.replace(prefix / path)


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step; its mode stays."""
    draft = path.with_name(f".{path.name}.moving")
    draft.write_bytes(data)
    draft.chmod(path.stat().st_mode & 0o777)
    draft.replace(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _base64(sha256: str) -> str:
    import base64

    return base64.urlsafe_b64encode(bytes.fromhex(sha256)).rstrip(b"=").decode()


if __name__ == "__main__":
    folder, variant = Path(sys.argv[1]), Path(__file__).name.partition("mend-")[2]
    try:
        print(f"{folder / variant} is {'ready' if mend(folder, variant) else 'mended already'}")
    except Refused as error:
        sys.exit(f"mend: {error}")
