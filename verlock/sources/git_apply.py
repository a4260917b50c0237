"""Unified diffs: reading one, splitting it into hunks, and `git apply` on copies of the files it touches."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from verlock.errors import PatchRejected, ToolMissing
from verlock.system import process


@dataclass(frozen=True)
class Hunk:
    """One hunk of a patch, as a patch of its own."""

    path: str
    line: int
    text: str
    body: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def split(text: str, name: str) -> list[Hunk]:
    """The hunks of a unified diff, each with its file's header.

    Raises PatchRejected when there is none, or when files are created, deleted or renamed.
    """
    hunks: list[Hunk] = []
    header: list[str] = []
    path = ""
    lines = io.StringIO(text, newline="\n").readlines()  # str.splitlines sees more line ends than git does
    at = 0
    while at < len(lines):
        if lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            header = lines[at : at + 2]
            path = header[1][4:].split("\t")[0].strip().removeprefix("b/")
            old = header[0][4:].split("\t")[0].strip().removeprefix("a/")
            if old != path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
                raise PatchRejected(
                    f"{name} does more than change files in place ({old} -> {path})",
                    "write it as a change of existing files",
                )
            at += 2
        elif path and (match := re.match(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@", lines[at])):
            start = at
            old_left, new_left = (int(match[group]) if match[group] is not None else 1 for group in (2, 3))
            at += 1
            while at < len(lines) and (old_left > 0 or new_left > 0 or lines[at].startswith("\\")):
                old_left -= lines[at][0] in " -\n"
                new_left -= lines[at][0] in " +\n"
                at += 1
            body = "".join(lines[start:at])
            hunks.append(Hunk(path, int(match[1]), "".join(header) + body, body))
        else:
            at += 1
    if not hunks:
        raise PatchRejected(f"{name} holds no unified diff", "make it with `git diff`")
    return hunks


def git() -> str:
    """The git executable. Raises ToolMissing."""
    found = shutil.which("git")
    if not found:
        raise ToolMissing("git is not installed", "install git: patches are applied and sources are fetched with it")
    return found


class Stage:
    """Copies of the touched files in a scratch folder, where git may change anything."""

    def __init__(self, root: Path, paths: Iterable[str], scratch: Path) -> None:
        self.root, self.scratch, self._git = root, scratch, git()
        self.missing = [path for path in paths if not (root / path).is_file()]
        for path in paths:
            if path not in self.missing:
                copy = scratch / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes((root / path).read_bytes())

    def run(self, data: bytes, *options: str) -> str | None:
        """Run `git apply`. Returns None on success, else what git said."""
        done = subprocess.run(
            [self._git, "apply", "--whitespace=nowarn", *options, "-"],
            input=data,
            capture_output=True,
            check=False,
            cwd=self.scratch,
            # inside another repository git silently skips every path that is not below the current folder
            env=process.GIT.environment(GIT_CEILING_DIRECTORIES=str(self.scratch.parent)),
        )
        return done.stderr.decode(errors="replace").strip() or "git apply failed" if done.returncode else None

    def fits(self, data: bytes) -> bool:
        """Whether the patch applies."""
        return self.run(data, "--check") is None

    def holds(self, data: bytes) -> bool:
        """Whether the patch is applied already."""
        return self.run(data, "--check", "--reverse") is None
