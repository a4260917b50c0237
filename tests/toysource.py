"""What tests of sources are made of: git repositories, diffs, and a released wheel with compiled objects."""

from __future__ import annotations

import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

from verlock.variant import record


def git(folder: Path, *arguments: str) -> str:
    names = {f"GIT_{who}_{what}": "t@t.test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def diff(path: str, old: str, new: str) -> str:
    """A unified diff, made by git itself."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for side, text in (("a", old), ("b", new)):
            (folder / side / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / side / path).write_text(text)
        command = [
            "git",
            "diff",
            "--no-index",
            "--no-color",
            "--src-prefix=",
            "--dst-prefix=",
            f"a/{path}",
            f"b/{path}",
        ]
        out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    return out[out.index("--- a/") :]


def donor_wheel(path: Path) -> Path:
    info = "toy-0.7.3.dist-info"
    files = {
        "toy/_C.abi3.so": b"\x7fELF" + b"object" * 999,
        "toy/_version.py": b"version = '0.7.3'",
        "toy/kernels/__init__.py": b"",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 0.7.3\nRequires-Python: <3.13\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp38-abi3-manylinux1_x86_64\n",
    }
    listing = record.text(files.items(), f"{info}/{record.NAME}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for name, data in {**files, f"{info}/{record.NAME}": listing.encode()}.items():
            out.writestr(name, data)
    return path
