"""A real conda channel, made in seconds from what a test machine has: for solving, locking and installing without conda-forge.

Its `python` is the host's CPython, relocated: the run path in its ELF files becomes `$ORIGIN/../lib`, and text files that name
the host's prefix get it replaced at installation, as conda packages do. pip, setuptools and wheel are real, from their wheels.
`git`, `gcc` and `gxx` are stand-ins that hold one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from conda_package_streaming.create import conda_builder

from verlock.system import host_python, uv

URL = "https://conda.anaconda.org/conda-forge"  # what locks made from it say: the folder is given as a mirror
WHEELS = {"pip": "25.0", "setuptools": "75.8.2", "wheel": "0.45.1"}
STUBS = {"git": "2.55.0", "gcc": "12.4.0", "gxx": "12.4.0"}
_LEFT_OUT = {"test", "tests", "idlelib", "__pycache__", "site-packages", "turtledemo", "ensurepip", "lib2to3"}


def build(folder: Path, minor: str) -> Path:
    """Make the channel at `folder` with a CPython `minor` ("3.10"); returns `folder`. Needs that CPython on the host."""
    host = host_python.find(minor)
    assert host, f"no CPython {minor} on this machine"
    work = folder / "work"
    for subdir in ("linux-64", "noarch"):
        (folder / subdir).mkdir(parents=True)
    _python(host, minor, work / "python", folder / "linux-64")
    for name, version in WHEELS.items():
        _from_wheel(name, version, work / name, folder / "noarch")
    for name, version in STUBS.items():
        stub(folder, name, version)
    shutil.rmtree(work)
    index(folder)
    return folder


def stub(folder: Path, name: str, version: str, *, depends: tuple[str, ...] = (), text: str = "") -> Path:
    """Add a package that holds the one file `share/<name>.txt`; call `index` afterwards. Returns the package's path."""
    root = folder / "work" / f"stub-{name}-{version}"
    (root / "share").mkdir(parents=True)
    (root / "share" / f"{name}.txt").write_text(text or f"{name} {version}\n")
    made = _package(root, folder / "linux-64", name, version, depends=list(depends))
    shutil.rmtree(root)
    return made


def index(folder: Path) -> None:
    """Write repodata.json for what is in `folder` (in a child: see `verlock.conda.client`)."""
    code = (
        "import asyncio, os, sys, rattler.index as index\n"
        "asyncio.run(index.index_fs(sys.argv[1], write_zst=False, write_shards=False, force=True))\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True)
    for path in folder.glob("*/repodata.json"):  # to a cut-off, what was indexed today is of today
        content = json.loads(path.read_text())
        for record in content["packages.conda"].values():
            record.pop("indexed_timestamp", None)
        path.write_text(json.dumps(content))


def _python(host: host_python.HostPython, minor: str, root: Path, out: Path) -> None:
    asked = subprocess.run(
        [host.executable, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    )
    prefix = Path(asked.stdout.strip())
    name = f"python{minor}"
    (root / "bin").mkdir(parents=True)
    shutil.copy2(prefix / "bin" / name, root / "bin" / name)
    for link in ("python", "python3"):
        (root / "bin" / link).symlink_to(name)
    (root / "lib").mkdir()
    for library in (prefix / "lib").glob(f"libpython{minor}*.so*"):
        shutil.copy2(library, root / "lib", follow_symlinks=False)
    shutil.copytree(prefix / "lib" / name, root / "lib" / name, ignore=_ignored, symlinks=True)
    (root / "lib" / name / "site-packages").mkdir()
    (root / "lib" / name / "site-packages" / "README.txt").write_text("third-party packages\n")
    if (prefix / "include" / name).is_dir():
        shutil.copytree(prefix / "include" / name, root / "include" / name)
    for path in [root / "bin" / name, *(root / "lib").glob("*.so*"), *(root / "lib" / name).rglob("*.so")]:
        if not path.is_symlink():
            _relocate(path, prefix / "lib")
    _package(root, out, "python", host.version, placeholder=str(prefix))


def _ignored(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name in _LEFT_OUT or name.endswith((".a", ".pyc")) or name.startswith("config-")}


def _relocate(path: Path, library: Path) -> None:
    """Overwrite an absolute run path in place; it is longer than the relative one."""
    old, new = os.fsencode(library) + b"\0", b"$ORIGIN/../lib"
    data = path.read_bytes()
    if old in data and len(new) < len(old):
        path.chmod(0o755)
        path.write_bytes(data.replace(old, new.ljust(len(old), b"\0")))


def _from_wheel(name: str, version: str, root: Path, out: Path) -> None:
    target = root / "site-packages"
    command = [uv.uv(), "pip", "install", "--quiet", "--no-deps", "--target", str(target), f"{name}=={version}"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(target / "bin", ignore_errors=True)
    for stray in (".lock", ".gitignore"):
        (target / stray).unlink(missing_ok=True)
    _package(root, out, name, version, depends=["python"], noarch="python")


def _package(
    root: Path,
    out: Path,
    name: str,
    version: str,
    *,
    depends: list[str] | None = None,
    noarch: str = "",
    placeholder: str = "",
) -> Path:
    """Write `<name>-<version>-0.conda` from all files below `root`."""
    files = sorted(path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    info = root / "info"
    info.mkdir()
    subdir = "noarch" if noarch else "linux-64"
    facts: dict[str, Any] = {
        "name": name,
        "version": version,
        "build": "0",
        "build_number": 0,
        "depends": depends or [],
    }
    facts |= {"subdir": subdir, "timestamp": 1743552000000} | ({"noarch": noarch} if noarch else {})
    (info / "index.json").write_text(json.dumps(facts))
    (info / "about.json").write_text("{}")
    (info / "files").write_text("".join(f"{path.relative_to(root)}\n" for path in files))
    (info / "paths.json").write_text(
        json.dumps({"paths_version": 1, "paths": [_path(path, root, placeholder) for path in files]})
    )
    if noarch:
        scripts = [f"{name} = pip._internal.cli.main:main"] if name == "pip" else []
        (info / "link.json").write_text(
            json.dumps({"noarch": {"type": noarch, "entry_points": scripts}, "package_metadata_version": 1})
        )
    with conda_builder(f"{name}-{version}-0", out, compression_level=1) as archive:
        for path in [*sorted(info.iterdir()), *files]:
            archive.add(path, str(path.relative_to(root)))
    return out / f"{name}-{version}-0.conda"


def _path(path: Path, root: Path, placeholder: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "_path": str(path.relative_to(root)),
        "path_type": "softlink" if path.is_symlink() else "hardlink",
    }
    data = path.read_bytes()
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
    if placeholder and not path.is_symlink() and placeholder.encode() in data and b"\0" not in data:
        entry |= {"prefix_placeholder": placeholder, "file_mode": "text"}
    return entry
