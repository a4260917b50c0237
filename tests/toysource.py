"""What tests of sources are made of: git repositories, diffs, a package whose setup.py behaves as vLLM's does, and its released
wheel with compiled objects."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import os
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import toy

from verlock.variant import record

DAY = "2025-01-01T00:00:00Z"  # of all commits, so that the same content is the same commit
SETUP = """
import os, zipfile
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

class take(build_ext):
    def run(self):
        with zipfile.ZipFile(os.environ["VLLM_PRECOMPILED_WHEEL_LOCATION"]) as wheel:
            for name in ("toy/_C.abi3.so", "toy/kernels/__init__.py"):
                wheel.extract(name)

open("toy/_version.py", "w").write("version = %r" % os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"])
assert os.environ["VLLM_USE_PRECOMPILED"] == "1"
assert os.environ["SOURCE_DATE_EPOCH"] == "1740355200", "the day of the commit"
assert not {"PYTHONSTARTUP", "CFLAGS", "UNRELATED"} & set(os.environ)
setup(name="toy", version="9.9+precompiled", packages=["toy"], cmdclass={"build_ext": take},
      ext_modules=[Extension("toy._C", [])], install_requires=["torch==2.5.1"])
"""
FIX = ("SIZE = 1\n", "SIZE = 8\n")
PATCH = "0001-Toy.patch"


def git(folder: Path, *arguments: str) -> str:
    names = {f"GIT_{who}_{what}": "t@t.test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    names |= {f"GIT_{who}_DATE": DAY for who in ("AUTHOR", "COMMITTER")}
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
    """Write the released wheel of `toy`, deflated as real ones are; always the same bytes."""
    info = "toy-0.7.3.dist-info"
    files = {
        "toy/_C.abi3.so": b"\x7fELF" + b"object" * 999,
        "toy/_version.py": b"version = '0.7.3'",
        "toy/kernels/__init__.py": b"",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toy\nVersion: 0.7.3\nRequires-Python: <3.13\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp38-abi3-manylinux1_x86_64\n",
    }
    listing = record.text(files.items(), f"{info}/{record.NAME}")
    with zipfile.ZipFile(path, "w") as out:
        for name, data in {**files, f"{info}/{record.NAME}": listing.encode()}.items():
            entry = zipfile.ZipInfo(name, (2025, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            out.writestr(entry, data, zipfile.ZIP_DEFLATED, 1)
    return path


def repository(folder: Path) -> Path:
    """A git repository of the package `toy`, in which `SETUP` takes the objects out of a released wheel."""
    (folder / "toy/kernels").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "setup.py").write_text(SETUP)
    (folder / "toy/__init__.py").write_text("# toy\n\n" + FIX[0])
    (folder / "toy/notes.md").write_text("packed too\n")
    (folder / "toy/kernels/.gitkeep").touch()
    (folder / "docs.md").write_text("not packed\n")
    (folder / ".gitignore").write_text("*.so\n_version.py\nbuild/\n*.egg-info/\ntoy/kernels/\n__pycache__/\n")
    git(folder, "add", "-A")
    git(folder, "add", "-f", "toy/kernels/.gitkeep")
    git(folder, "commit", "-qm", "toy")
    return folder


def recipe(folder: Path, made: Path, donor: Path) -> str:
    """The lines of a recipe in `folder` for a source in the repository `made`, the wheel `donor`, and a patch that is written."""
    (folder / "patches").mkdir(parents=True)
    change = diff("toy/__init__.py", "# toy\n\n" + FIX[0], "# toy\n\n" + FIX[1])
    (folder / "patches" / PATCH).write_text("Toy\n\n" + change)
    return f"""
[source]
package = "toy"
version = "0.7.4.dev65+g22757848"
url = "https://127.0.0.1:9/toy.git"
commit = "{git(made, "rev-parse", "HEAD")}"
tree = "{git(made, "rev-parse", "HEAD^{tree}")}"
subject = "toy"
date = 2025-02-24
reason = "r"
[source.precompiled]
package = "toy"
version = "0.7.3"
filename = "{donor.name}"
sha256 = "{hashlib.sha256(donor.read_bytes()).hexdigest()}"
size = {donor.stat().st_size}
reason = "r"
[[patch]]
file = "{PATCH}"
package = "toy"
why = "w"
"""


def sdist(folder: Path) -> Path:
    """Write an sdist of the package `gamma`, which setuptools builds; always the same bytes."""
    texts = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "gamma"\nversion = "1.0"\n',
        "PKG-INFO": "Metadata-Version: 2.1\nName: gamma\nVersion: 1.0\n",
        "gamma.py": "made = 'from an sdist'\n",
    }
    path = folder / "gamma-1.0.tar.gz"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(f"gamma-1.0/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    path.write_bytes(gzip.compress(content.getvalue(), mtime=0))
    return path


def build_tools(folder: Path) -> list[Path]:
    """Write wheels of the setuptools and wheel that the tests themselves have."""
    made = []
    for name in ("setuptools", "wheel"):
        installed = importlib.metadata.distribution(name)
        packed = {
            str(file): Path(str(installed.locate_file(file))).read_bytes()
            for file in installed.files or ()
            if file.parts[0].startswith((name, "_distutils_hack", "pkg_resources")) and "__pycache__" not in file.parts
            if not file.match("*.dist-info/*") or file.name == "entry_points.txt"
        }
        made.append(toy.wheel(folder, name, installed.version, packed))
    return made
