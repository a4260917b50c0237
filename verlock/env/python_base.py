"""The base of a prefix: the locked conda layer, or a host CPython of the same minor version in its place."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from verlock import console
from verlock.conda import client
from verlock.env import installed, launcher, prefix_folder
from verlock.errors import NetworkError, NoBase
from verlock.system import host_python, uv
from verlock.system.files import sha256
from verlock.variant import lockfiles
from verlock.variant.chosen import Chosen
from verlock.variant.recipe import Recipe


def install(chosen: Chosen, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Make the base in a prefix with nothing in it, as `prefix_folder.replacing` begins it; warn where a compiler is missing.

    Args:
        chosen: which environment.
        kind: "conda", "host", or "auto": conda where a channel answers, else host, said aloud.

    Returns:
        The receipt's entry (kind, version, from; of a host base also interpreter: absolute path -> hex sha256), and the files
        that no package owns: path -> hex sha256 or `link:<target>`.

    Raises:
        NoBase: there is neither.
        IntegrityError, InstallError: from the conda engine.
    """
    made = _install(chosen, kind)
    warn_without_compiler(chosen)
    return made


def _install(chosen: Chosen, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    prefix = chosen.prefix
    if kind == "host":
        why_host = "the host base was asked for"
    else:
        try:
            _install_conda(chosen, ask_first=kind == "auto")
            return {"kind": "conda", "version": _version(prefix), "from": "conda-lock.yml"}, _unowned(prefix)
        except NetworkError as error:
            if kind == "conda":
                raise NoBase(f"the conda layer cannot be fetched: {error.problem}", error.remedy) from None
            why_host = error.problem
            prefix_folder.again(prefix)
    found = host_python.find(chosen.python)
    if found is None:
        raise NoBase(
            f"{why_host}, and there is no CPython {chosen.python} on this machine",
            f"install one (`{shlex.join([uv.uv(), 'python', 'install', chosen.python])}`), "
            "or name a conda-forge mirror in VERLOCK_CONDA_MIRROR",
        )
    if kind == "auto":
        console.warn(f"{why_host}; base: host, {found.executable} ({found.version}) in place of the locked conda layer")
    uv.make_venv(found.executable, prefix, prefix.name)
    _set_venv_environment(chosen.recipe, prefix)
    launcher.write(prefix, chosen.recipe.vllm.environment)
    # by the path that the environment's links lead through, so that another interpreter put there is seen too
    interpreter = {str(path): sha256(path) for path in (found.executable, found.libpython) if path}
    entry = {"kind": "host", "version": found.version, "from": str(found.executable), "interpreter": interpreter}
    return entry, _unowned(prefix)


def _install_conda(chosen: Chosen, ask_first: bool) -> None:
    lock, prefix = chosen.locks / lockfiles.CONDA_LOCK, chosen.prefix
    mirrors, cache = client.mirrors_from_environment(), client.cache_dir()
    if ask_first:  # sooner than the install's own patience; where all is in the cache, nobody is asked
        client.ask(lock, mirrors, cache)
    client.install(lock, prefix, cache, mirrors=mirrors)
    _set_conda_environment(chosen.recipe, prefix)
    launcher.write(prefix, chosen.recipe.vllm.environment)


def _version(prefix: Path) -> str:
    """The full version of the conda layer's python, from its record."""
    (record,) = (prefix / "conda-meta").glob("python-3*.json")
    return record.name.split("-")[1]


def _set_conda_environment(recipe: Recipe, prefix: Path) -> None:
    """`conda activate` sets the engine's variables: conda's own file for that, as `conda env config vars set` writes it."""
    (prefix / "conda-meta" / "state").write_text(json.dumps({"env_vars": recipe.vllm.environment}), encoding="utf-8")


def _set_venv_environment(recipe: Recipe, prefix: Path) -> None:
    """`source bin/activate` sets them too."""
    with (prefix / "bin" / "activate").open("a", encoding="utf-8") as file:
        file.writelines(
            f"export {name}={shlex.quote(value)}\n" for name, value in sorted(recipe.vllm.environment.items())
        )


def _unowned(prefix: Path) -> dict[str, str]:
    """Files of the base of which neither a RECORD nor conda-meta has the hash: path -> hex sha256, or `link:<target>`."""
    owned = {f"{prefix}/{prefix_folder.MARKER}"}
    for path in installed.conda_records(prefix):  # each is no package's own file: its hash goes into the receipt
        record = json.loads(path.read_text(encoding="utf-8"))
        owned.update(f"{prefix}/{item['_path']}" for item in record["paths_data"]["paths"])
    files = {}
    for folder, folders, names in os.walk(prefix):
        folders[:] = [name for name in folders if name != "__pycache__"]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(folder, name)
            if name.endswith((".pyc", ".lock")) or (str(path) in owned and not path.is_symlink()):
                continue  # of a link, conda-meta does not say where it leads
            files[str(path.relative_to(prefix))] = f"link:{path.readlink()}" if path.is_symlink() else sha256(path)
    return files


def warn_without_compiler(chosen: Chosen) -> None:
    """Warn where the engine compiles at run time and neither the prefix nor the host has a C compiler.

    A warning only: an environment is often made on a login node for a compute node.
    """
    if chosen.recipe.vllm.compiles and not compiler(chosen.prefix):
        console.warn(
            f"{chosen.name}'s engine compiles kernels at run time, and there is no C compiler (cc, gcc) here: "
            "install one, or use the conda base"
        )


def compiler(prefix: Path) -> str | None:
    """The C compiler that an engine which compiles at run time finds: CC, the prefix's, or the host's; None without any."""
    path = os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH", "")])
    return os.environ.get("CC") or shutil.which("gcc", path=path) or shutil.which("cc", path=path)
