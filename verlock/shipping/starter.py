#!/usr/bin/env python3
"""A bundle of verlock: environments for machines without a network. Needs a CPython of 3.10 or newer, and nothing else.

    DIR/verlock env vllm073 [--into FOLDER] [OPTION...]   make the environment; options are those of `verlock create`
    DIR/verlock verify                                    is the bundle whole? names what is missing, altered or extra
    DIR/verlock join --to FOLDER                          of a bundle in parts: put it together again

`env` unpacks verlock itself into FOLDER (default: `verlock-` and its commit, in the current folder), installs its tools and nox
there, and makes the environment in FOLDER/envs, or where VERLOCK_ENVS says. The interpreter goes there too.
"""

# verlock copies this file into every bundle; verlock/shipping/starter.py in its clone. It imports the standard library alone.

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

MANIFEST, PARTS = "manifest.json", "parts.json"
MISSING, ALTERED, EXTRA, REFUSED = 70, 71, 72, 73  # exit codes, as in verlock/errors.py
KINDS = {"missing": MISSING, "altered": ALTERED, "extra": EXTRA}  # worst first
_BLOCK = 1 << 20  # bytes read at a time


class Refused(Exception):
    """What stops the starter, for people."""


def listing(folder: Path) -> tuple[str, dict[str, Any]]:
    """The file that lists what a bundle is made of, by its name, and its content. Raises Refused where there is none."""
    for name in (PARTS, MANIFEST):
        if (folder / name).is_file():
            try:
                content: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
                if all(
                    {"path", "size", "sha256"} <= each.keys() and _inside(each["path"]) for each in content["files"]
                ):
                    return name, content
            except (ValueError, KeyError, TypeError, AttributeError):
                pass
            raise Refused(f"{folder / name} is damaged: copy the bundle here again")
    raise Refused(f"{folder} is no bundle: it has neither {MANIFEST} nor {PARTS} (written last: was it finished?)")


def differences(folder: Path) -> list[tuple[str, str]]:
    """What in a bundle is not as it was made: kind (of KINDS, worst first) and path. Reads every byte of it."""
    own, content = listing(folder)
    wanted = {each["path"]: each for each in content["files"]}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
    found = [("missing", path) for path in wanted if path not in there]
    found += [("extra", path) for path in there if path not in wanted and path != own]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        paths = sorted(wanted.keys() & there, key=lambda path: -int(wanted[path]["size"]))
        for path, same in zip(paths, pool.map(lambda path: _same(folder / path, wanted[path]), paths)):  # noqa: B905
            found += [] if same else [("altered", path)]
    order = list(KINDS)
    return sorted(found, key=lambda each: (order.index(each[0]), each[1]))


def _same(path: Path, wanted: dict[str, Any]) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != wanted["size"]:
        return False
    return sha256(path) == str(wanted["sha256"])


def sha256(path: Path) -> str:
    """The hex sha256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def _inside(path: str) -> bool:
    return not {"..", ".", ""} & {*path.split("/")}


# join -------------------------------------------------------------------------------------------------


class _Joined:
    """The parts one after the other, as a file to read from; each is hashed on the way."""

    def __init__(self, folder: Path, parts: list[dict[str, Any]]) -> None:
        self._folder, self._parts = folder, list(parts)
        self._file: IO[bytes] | None = None
        self._total = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Raises Refused at the end of a part that is not what it was."""
        while self._parts:
            path = self._folder / self._parts[0]["path"]
            if self._file is None:
                if not path.is_file():
                    raise Refused(f"{path} is missing: copy all parts into one folder")
                self._file, self._total = path.open("rb"), hashlib.sha256()
            if block := self._file.read(size):
                self._total.update(block)
                return block
            self._file.close()
            self._file = None
            if self._total.hexdigest() != self._parts.pop(0)["sha256"]:
                raise Refused(f"{path} is altered: copy it here again")
        return b""


def join(folder: Path, to: Path) -> None:
    """Put a bundle together again from its parts, from the beginning. Raises Refused where one is missing or altered."""
    name, content = listing(folder)
    if name != PARTS:
        raise Refused(f"{folder} is not in parts")
    if to.exists() and any(to.iterdir()) and not (to / ".joining").exists():
        raise Refused(f"{to} is not empty: name another folder")
    to.mkdir(parents=True, exist_ok=True)
    (to / ".joining").touch()
    joined = _Joined(folder, [each for each in content["files"] if each["path"].startswith("bundle.tar.")])
    with tarfile.open(fileobj=joined, mode="r|") as archive:  # type: ignore[call-overload]
        for member in archive:
            if not member.isfile() or not _inside(member.name):
                raise Refused(f"{member.name} does not belong into a bundle")
            target = to / member.name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None
            with target.open("wb") as out:
                shutil.copyfileobj(source, out, _BLOCK)
            target.chmod(member.mode)
    while joined.read(_BLOCK):
        pass
    (to / ".joining").unlink()
    if wrong := differences(to):
        raise Refused(f"{to / wrong[0][1]} is {wrong[0][0]} after all parts were read: join again")


# env --------------------------------------------------------------------------------------------------


def env(folder: Path, into: Path | None, variant: str, options: list[str]) -> int:
    """Unpack verlock and its tools into `into` (or its default), and run its `create`. Returns the exit code. Raises Refused."""
    name, manifest = listing(folder)
    if name == PARTS:
        raise Refused(f"this bundle is in parts; put it together first: {folder}/verlock join --to FOLDER")
    if variant not in manifest["variants"]:
        raise Refused(f"this bundle has {', '.join(sorted(manifest['variants']))}, and not {variant}")
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if minor not in manifest["tools"]:
        raise Refused(
            f"this bundle has verlock's tools for CPython {', '.join(manifest['tools'])}, and this is {minor}: "
            f"start it with such a one, as python{manifest['tools'][0]} {folder}/verlock env {variant}"
        )
    into = (into or Path(f"verlock-{manifest['commit'][:8]}")).absolute()
    if folder in (into, *into.parents):
        raise Refused(
            f"{into} is within the bundle, which would not be whole any more: stand elsewhere, or name a folder with --into"
        )
    _clone(folder, into, manifest)
    tools = _tools(folder, into)
    print(f"nox, for everything else: cd {into} && .nox/front/bin/nox -l", file=sys.stderr, flush=True)
    command = [str(tools / "bin/python"), "-m", "verlock", "create", variant, "--from", str(folder), "--offline"]
    return subprocess.call([*command, *options], cwd=into)


def _clone(folder: Path, into: Path, manifest: dict[str, Any]) -> None:
    """Have verlock's repository in `into`, at the bundle's commit."""
    stamp = into / ".nox" / "commit"
    if stamp.is_file() and stamp.read_text() == manifest["commit"]:
        return
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise Refused(f"{into} exists, and was not unpacked from this bundle: name another folder with --into")
    archive = folder / manifest["repository"]
    _checked(archive, manifest)
    draft = into.with_name(f".{into.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with tarfile.open(archive) as file:
        if not all(_inside(member.name.rstrip("/")) for member in file if member.type != tarfile.XGLTYPE):
            raise Refused(f"{archive} holds a file that leads out of it")
        file.extraction_filter = getattr(tarfile, "tar_filter", None)
        file.extractall(draft)
    (draft / ".nox").mkdir()
    (draft / ".nox" / "commit").write_text(manifest["commit"])
    if into.exists():
        into.rmdir()
    draft.rename(into)


def _checked(path: Path, manifest: dict[str, Any]) -> None:
    """Raises Refused where a file of the bundle is not as its manifest says."""
    entry = next(each for each in manifest["files"] if folder_path(path) == each["path"])
    if not path.is_file():
        raise Refused(f"{path} is missing: copy the bundle here again")
    if not _same(path, entry):
        raise Refused(f"{path} is altered: copy the bundle here again")


def folder_path(path: Path) -> str:
    """How the manifest names a file that lies directly in a bundle's folder."""
    return path.name


def _tools(folder: Path, into: Path) -> Path:
    """Have the folder .nox/tools as noxfile.py makes it, and nox in .nox/front. Returns the first. Raises Refused."""
    locks, tools, front = into / "locks/tools", into / ".nox/tools", into / ".nox/front"
    index = ["--no-index", "--find-links", str(folder / "tools"), "--require-hashes", "--only-binary", ":all:"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    variables |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
    if cache := os.environ.get("UV_CACHE_DIR"):
        variables["UV_CACHE_DIR"] = cache
    pip = next((folder / "tools").glob("pip-*.whl"), None)
    if pip is None:
        raise Refused(f"{folder}/tools has no pip: copy the bundle here again")
    makers = {
        tools: ("requirements.txt", [str(tools / "bin/python"), "-m", "pip", "install", "--quiet"]),
        front: (
            "front.txt",
            [str(tools / "bin/uv"), "pip", "install", "--quiet", "--offline", "--python", str(front / "bin/python")],
        ),
    }
    for place, (name, command) in makers.items():
        # what noxfile.py writes and looks for
        wanted = hashlib.sha256((locks / name).read_bytes() + sys.version.encode()).hexdigest()
        stamp = place / "verlock-tools"
        if stamp.is_file() and stamp.read_text() == wanted:
            continue
        shutil.rmtree(place, ignore_errors=True)
        print(f"installing {name} of verlock's tools into {place} (once)", file=sys.stderr, flush=True)
        # without pip, whose module Debian leaves out of its Python: that of the bundle is run from its wheel
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
        done = subprocess.run(
            [*command, *index, "-r", str(locks / name)], env={**variables, "PYTHONPATH": str(pip)}, check=False
        )
        if done.returncode:
            raise Refused(f"the tools cannot be installed; `{folder}/verlock verify` says whether the bundle is whole")
        stamp.write_text(wanted)
    return tools


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    folder = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    make = commands.add_parser("env", help="make an environment", add_help=False)
    make.add_argument("variant")
    make.add_argument("--into", type=Path, metavar="FOLDER")
    commands.add_parser("verify", help="is the bundle whole?")
    joining = commands.add_parser("join", help="put a bundle in parts together again")
    joining.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    given, options = parser.parse_known_args(arguments)
    if options and given.command != "env":
        parser.error(f"unknown: {' '.join(options)}")
    try:
        if given.command == "env":
            return env(folder, given.into, given.variant, options)
        if given.command == "join":
            join(folder, given.to)
            print(f"the bundle is in {given.to}", file=sys.stderr)
            return 0
        wrong = differences(folder)
        for kind, path in wrong:
            print(f"{kind}: {path}")
        return KINDS[wrong[0][0]] if wrong else 0
    except Refused as error:
        print(f"verlock: {error}", file=sys.stderr)
        return REFUSED


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 (it runs on whatever the user has)
        sys.exit("verlock needs CPython 3.10 or newer, and this is {}.{}".format(*sys.version_info))
    sys.exit(main())
