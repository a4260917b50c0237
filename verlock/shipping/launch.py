"""`verlock run` and `verlock shell`: a command, or a shell, in the place of this process and inside an environment."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from verlock import console, straight
from verlock.env import launcher
from verlock.errors import FileRefused, ToolMissing
from verlock.variant import receipt
from verlock.variant.chosen import Chosen

NOT_EXECUTABLE, NOT_FOUND = 126, 127  # as env(1) and every shell answer

# What starts a Ray worker must pass on what Ray sets for it (RAY_*, and PYTHONPATH for a working_dir) and what a job sets
# (VLLM_*); only what would start another Python, or that one otherwise, is taken out.
_NOT_FOR_A_WORKER = ("PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_PRELOAD")


def run(chosen: Chosen, command: Sequence[str], folder: str | None = None) -> int:
    """Run a command inside the environment: it takes this process's place, so its exit code and signals are its own.

    Args:
        chosen: which environment.
        command: the program and its arguments; the program is looked for in the environment first.
        folder: where it starts, if not here.

    Returns:
        126 or 127 where the program cannot be started, which is said.

    Raises:
        NotSealed: there is no finished environment. FileRefused: there is no such folder.
    """
    variables = inside(chosen)
    _enter(folder)
    try:
        straight.become(command, variables)
    except FileNotFoundError:
        print(f"verlock: {command[0]}: no such program in {chosen.prefix}/bin or in PATH", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"verlock: {command[0]}: cannot be started: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE


def shell(chosen: Chosen, folder: str | None = None) -> NoReturn:
    """Begin an interactive bash inside the environment; what the user's ~/.bashrc sets is put right after it was read.

    Args:
        chosen: which environment.
        folder: where it starts, if not here.

    Raises:
        NotSealed: there is no finished environment. ToolMissing: there is no bash. FileRefused: there is no such folder.
    """
    variables = inside(chosen)
    bash = shutil.which("bash")
    if bash is None:
        raise ToolMissing(
            "there is no bash here", f"install bash, or start another shell: `nox -s run -- {chosen.name} sh`"
        )
    _enter(folder)
    label = shlex.quote(f"({chosen.prefix.name}) ")
    start = (
        f"[ ! -f ~/.bashrc ] || . ~/.bashrc\n{launcher.lines(chosen.prefix, settings(chosen))}PS1={label}${{PS1:-}}\n"
    )
    reader = os.memfd_create("verlock-shell", 0)  # no file on a disk that would have to be deleted
    os.write(reader, start.encode())
    os.lseek(reader, 0, os.SEEK_SET)
    console.say(f"a shell inside {chosen.prefix}; `exit` leaves it")
    straight.become([bash, "--rcfile", f"/dev/fd/{reader}", "-i"], variables)


def inside(chosen: Chosen) -> dict[str, str]:
    """The variables of a program inside a finished environment. Raises NotSealed."""
    receipt.read(chosen.prefix)
    return launcher.variables(chosen.prefix, settings(chosen))


def settings(chosen: Chosen) -> dict[str, str]:
    """What the recipe sets for the engine. Raises RecipeError."""
    return {name: str(value) for name, value in _of_recipe(chosen, "vllm", "environment", {}).items()}


def flags(chosen: Chosen, nodes: int, gpus: int) -> list[str]:
    """The Hydra overrides that verl's entry point needs with this variant, on so many nodes with so many GPUs; one word each.

    Raises RecipeError.
    """
    return [*_of_recipe(chosen, "verl", "flags", []), f"trainer.nnodes={nodes}", f"trainer.n_gpus_per_node={gpus}"]


def _of_recipe(chosen: Chosen, table: str, key: str, default: Any) -> Any:
    """A value of the recipe, read without pydantic, which takes longer than Python's own start. Raises RecipeError."""
    try:
        value = chosen.data[table].get(key, default)
    except (AttributeError, KeyError, TypeError):
        value = None
    if not isinstance(value, type(default)):
        chosen.valid()  # says what is wrong
    return value


def changes(chosen: Chosen) -> str:
    """How a shell with this process's variables gets those of the environment: `unset` and `export` lines. Raises NotSealed."""
    wanted = inside(chosen)
    gone = sorted(os.environ.keys() - wanted.keys())
    new = sorted(name for name, value in wanted.items() if os.environ.get(name) != value)
    return "".join([*(f"unset {name}\n" for name in gone), *(f"export {n}={shlex.quote(wanted[n])}\n" for n in new)])


def py_executable(chosen: Chosen) -> str:
    """What Ray's `runtime_env={"py_executable": ...}` takes: one command line that starts the environment's Python.

    Ray puts its own arguments behind it and gives it to bash. Raises NotSealed.
    """
    receipt.read(chosen.prefix)
    words = ["env", *(word for name in _NOT_FOR_A_WORKER for word in ("-u", name))]
    words += [f"{name}={value}" for name, value in sorted({"PYTHONNOUSERSITE": "1", **settings(chosen)}.items())]
    return shlex.join([*words, str(chosen.interpreter)])


def _enter(folder: str | None) -> None:
    try:
        os.chdir(folder or ".")
    except (FileNotFoundError, NotADirectoryError):
        raise FileRefused(f"{folder} is no folder", "name one that is there with --chdir") from None
