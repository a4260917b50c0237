"""A whole small project, made for one test: code, recipe, locks and wheels of a toy variant that the real uv installs.

Its `torch`, `vllm` and `verl` are a few kilobytes, with shared objects that a C compiler made and that really depend on each
other as those of the real ones do.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verlock import paths

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
ODD = "odd/a, b 'c' \"d\" Ünï.txt"

RECIPE = """
summary = "toy"
python = ["{minor}"]
[cutoff]
date = 2025-04-03
reason = "test"
[vllm]
version = "0.7.3"
engine = "V0"
sleep_mode = true
cuda_graphs = true
compiles = false
[vllm.environment]
VLLM_USE_V1 = "0"
[verl]
version = "0.3.0.post1"
reason = "test"
[torch]
version = "2.5"
cxx11abi = false
reason = "test"
[cuda]
version = "12.4"
min_driver = "1.0"
reason = "test"
[platform]
glibc = "2.17"
linux = "3.10"
disk = 1000000
reason = "test"
"""

# what a receipt has besides its schema and its prefix
# How little the smoke run asks for where a CPU rehearses it.
SIZES = {
    "prompts": 4,
    "length": 32,
    "new": 8,
    "cached_prompts": 2,
    "cached_length": 128,
    "cached_new": 8,
    "sampled_prompts": 256,
}

SEALED: dict[str, Any] = {
    **dict.fromkeys(("variant", "python", "digest", "prefix", "fingerprint"), ""),
    **{key: {} for key in ("packages", "missing", "site_wheels", "files")},
    "base": {"kind": "host", "version": "3.10.13"},
    "conda": [],
    "patches": [],
    "source": None,
    "editable": {},
}

CONDA_LOCK = """
version: 1
metadata:
  content_hash:
    linux-64: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  channels:
  - url: http://127.0.0.1:9/channel
    used_env_vars: []
  platforms:
  - linux-64
  sources:
  - environment.yml
package:
- name: python
  version: {minor}.0
  manager: conda
  platform: linux-64
  dependencies: {{}}
  url: http://127.0.0.1:9/channel/linux-64/python-{minor}.0-0.conda
  hash:
    md5: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  category: main
  optional: false
"""


def compiler() -> str | None:
    """A C compiler, without which the toy's shared objects cannot be made."""
    return shutil.which("cc") or shutil.which("gcc")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record_line(path: str, data: bytes) -> list[str]:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return [path, f"sha256={digest}", str(len(data))]


def wheel(folder: Path, name: str, version: str, files: dict[str, bytes], *requires: str, entry: str = "") -> Path:
    """Write a wheel of these files; returns its path."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if entry:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{entry}\n".encode()
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(
        [*(record_line(path, data) for path, data in files.items()), [f"{info}/RECORD", "", ""]]
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in {**files, f"{info}/RECORD": table.getvalue().encode()}.items():
            archive.writestr(zipfile.ZipInfo(file, (2025, 1, 1, 0, 0, 0)), data)
    return path


def install(site: Path, name: str, version: str, files: dict[str, bytes], *rows: list[str]) -> Path:
    """Put an installed package into `site`, with these lines more in its RECORD; returns the folder of its metadata."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = []
    for path, data in {**files, f"{info.name}/METADATA": b"Name: x\n"}.items():
        target = site / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        lines.append(record_line(path, data))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([*lines, *rows, [f"{info.name}/RECORD", "", ""]])
    (info / "RECORD").write_text(table.getvalue(), encoding="utf-8")
    return info


def shared_object(folder: Path, name: str, code: str, *options: str) -> bytes:
    source, target = folder / f"{name}.c", folder / f"{name}.so"
    source.write_text(code)
    cc = compiler()
    assert cc
    subprocess.run([cc, "-shared", "-fPIC", "-o", target, source, *options], check=True)
    return target.read_bytes()


# loads its libraries for all to see, as the real one does
_TORCH = """import ctypes, pathlib
for name in ("libtorch_global_deps.so", "libtorch_python.so"):
    ctypes.CDLL(str(pathlib.Path(__file__).parent / "lib" / name), mode=ctypes.RTLD_GLOBAL)
__version__ = '2.5.1'
"""


def wheels(folder: Path, vllm: str = "0.7.3", trainer: str = "import verl\n") -> list[Path]:
    """The wheels of the toy variant: torch, vllm (whose object needs a symbol of torch's), verl, and a package of odd names.

    `trainer` is the text of verl's main_ppo.py.
    """
    scratch = folder / "objects"
    scratch.mkdir(parents=True, exist_ok=True)
    torch = shared_object(scratch, "torch", "int toy_torch(void) { return 251; }")
    empty = shared_object(scratch, "empty", "")
    ops = shared_object(scratch, "ops", "int toy_torch(void); int toy_ops(void) { return toy_torch(); }")
    made = folder / "wheels"
    return [
        wheel(
            made,
            "torch",
            "2.5.1",
            {
                "torch/__init__.py": _TORCH.encode(),
                "torch/lib/libtorch_global_deps.so": empty,
                "torch/lib/libtorch_python.so": torch,
            },
        ),
        wheel(
            made,
            "vllm",
            vllm,
            {
                "vllm/__init__.py": f"__version__ = '{vllm}'\n".encode(),
                "vllm/_C.abi3.so": ops,
                "vllm/rank.py": b"def rank():\n    return 0\n",
            },
            "torch==2.5.1",
            entry="vllm = vllm:main",
        ),
        wheel(
            made,
            "verl",
            "0.3.0.post1",
            {
                "verl/__init__.py": b"import vllm\n__version__ = '0.3.0.post1'\n",
                "verl/trainer/__init__.py": b"",
                "verl/trainer/main_ppo.py": trainer.encode(),
            },
            "vllm",
            "odd",
        ),
        # its script has the name of vllm's, as fastapi's and fastapi-cli's have the same
        wheel(made, "odd", "1", {"odd/__init__.py": b"", ODD: b"odd\n", "odd/empty": b""}, entry="vllm = odd:main"),
    ]


def hear_ctrl_c() -> None:
    """For `preexec_fn`: a shell starts what it puts into the background with SIGINT ignored, and all children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Project:
    """A clone with one variant, `toy`, and places of its own for environments and caches."""

    def __init__(self, folder: Path, envs: str = "envs") -> None:
        self.folder = folder
        self.root = folder / "clone"
        self.envs = folder / envs
        self.prefix = self.envs / "toy"
        self.site = self.prefix / "lib" / f"python{MINOR}" / "site-packages"
        self.locks = self.root / "locks/toy"
        self.recipe = self.root / "recipes/toy/recipe.toml"
        shutil.copytree(paths.ROOT / "verlock", self.root / "verlock", ignore=shutil.ignore_patterns("__pycache__"))
        self.recipe.parent.mkdir(parents=True)
        self.recipe.write_text(RECIPE.format(minor=MINOR))
        self.locks.mkdir(parents=True)
        (self.locks / "conda-lock.yml").write_text(CONDA_LOCK.format(minor=MINOR))
        (self.locks / "build-requirements.txt").write_text("")
        self.lock(wheels(folder))

    def lock(self, files: list[Path]) -> None:
        """Pin these wheels, hashed."""
        lines = [
            f"{name}=={version} \\\n    --hash=sha256:{sha256(file.read_bytes())}\n"
            for file in files
            for name, version in [file.name.split("-")[:2]]
        ]
        (self.locks / "requirements.txt").write_text("".join(lines))

    def conda_lock(self, url: str, channel: Path) -> None:
        """A conda-lock.yml of python, pip, setuptools and wheel as they lie in a channel, with this URL for it.

        The pip layer pins the same versions, as all real locks do; its files are others, so that a test sees whose are taken.
        """
        head, _, _ = CONDA_LOCK.format(minor=MINOR).partition("- name: python")
        entries = []
        for file in sorted(channel.glob("*/*.conda")):
            name, version, _ = file.name.rsplit("-", 2)
            if name in ("python", "pip", "setuptools", "wheel"):
                needs = "{}" if name == "python" else "{python: '*'}"
                md5 = hashlib.md5(file.read_bytes()).hexdigest()
                entries.append(
                    f"- name: {name}\n  version: '{version}'\n  manager: conda\n  platform: linux-64\n  dependencies: {needs}\n"
                    f"  url: {url}/{file.parent.name}/{file.name}\n  hash:\n    md5: {md5}\n"
                    f"    sha256: {sha256(file.read_bytes())}\n  category: main\n  optional: false\n"
                )
        assert len(entries) == 4
        made = self.folder / "wheels"
        for file in sorted(channel.glob("noarch/*.conda")):
            name, version, _ = file.name.rsplit("-", 2)
            wheel(made, name, version, {f"{name}/of_the_pip_layer.py": b""})
        self.lock(sorted(made.glob("*.whl")))
        text = head.replace("http://127.0.0.1:9/channel", url) + "".join(entries)
        (self.locks / "conda-lock.yml").write_text(text)

    def artefact(self, *, optional: bool = True) -> Path:
        """Add an optional wheel from outside the index, which nothing serves; returns the file, outside any known folder."""
        file = wheel(self.folder / "elsewhere", "flash-attn", "2.8.3+cu12", {"flash_attn/__init__.py": b""})
        with self.recipe.open("a") as recipe:
            recipe.write(
                f'[[artefact]]\npackage = "flash-attn"\nversion = "2.8.3"\nreason = "test"\n'
                f"optional = {str(optional).lower()}\n"
                f'[[artefact.file]]\ntorch = "2.5"\ncxx11abi = false\npython = "{MINOR}"\n'
                f'url = "https://127.0.0.1:9/download/{file.name.replace("+", "%2B")}"\n'
                f'sha256 = "{sha256(file.read_bytes())}"\n'
            )
        return file

    def no_index(self) -> Path:
        """An index that has nothing, so that no test looks elsewhere (uv has no variable for `--no-index`)."""
        (self.folder / "no-index").mkdir(exist_ok=True)
        return self.folder / "no-index"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VERLOCK_", "PIP_"))}
        own = {
            "VERLOCK_ENVS": str(self.envs),
            "VERLOCK_CACHE": str(self.folder / "cache"),
            "UV_CACHE_DIR": str(self.folder / "uv-cache"),
            "UV_FIND_LINKS": str(self.folder / "wheels"),
            "UV_DEFAULT_INDEX": self.no_index().as_uri(),
        }
        return {**kept, **own, **more}

    def start(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> subprocess.Popen[str]:
        """Start one verlock command (behind the words of another, if given), in a process group of its own."""
        return subprocess.Popen(
            [*before, sys.executable, *([] if arguments[0] == "-c" else ["-m", "verlock"]), *arguments],
            cwd=self.root,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_ctrl_c,  # noqa: PLW1509 (tests start no threads meanwhile)
        )

    def run(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one verlock command; a traceback fails the test whatever its exit code."""
        process = self.start(*arguments, before=before, **environment)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def create(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """`verlock create toy`, on the host base unless another is named; returns what it said."""
        base = [] if "--base" in arguments else ["--base", "host"]
        done = self.run("create", "toy", *base, *arguments, **environment)
        assert done.returncode == code, done.stderr
        return done.stderr

    def verify(self, *arguments: str, code: int = 0) -> str:
        """`verlock verify toy`; returns what it said."""
        done = self.run("verify", "toy", *arguments)
        assert done.returncode == code, done.stderr
        return done.stderr + done.stdout

    def receipt(self) -> dict[str, Any]:
        sealed: dict[str, Any] = json.loads((self.prefix / "verlock.json").read_text())
        return sealed

    def imports(self) -> str:
        """What the environment's Python says of its packages."""
        code = "import torch, vllm, verl; print(torch.__version__, vllm.__version__, verl.__version__)"
        done = subprocess.run(
            [self.prefix / "bin/python", "-I", "-c", code], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def killed(self, module: str, function: str, when: str) -> None:
        """Run `create` in a process that dies by SIGKILL before or after the first call of one function."""
        code = (
            f"import os, signal, sys\nimport {module} as module\nfrom verlock import cli\nreal = module.{function}\n"
            "def dying(*arguments, **keywords):\n"
            f"    if {when!r} == 'after': real(*arguments, **keywords)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            f"module.{function} = dying\nsys.exit(cli.main(['create', 'toy', '--base', 'host']))\n"
        )
        process = self.start("-c", code)
        _, err = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, f"{module}.{function} was not reached: {err}"
