"""The short way from `verlock run VARIANT COMMAND...` into an environment: nothing is read, and next to nothing is imported.

Reading the recipe and the receipt takes longer than Python's own start. A finished environment has `bin/verlock-run`, which sets
the same variables; where that will do, it is all that is needed. Anything else, each error among it, is for `shipping.launch`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

RECEIPT = "verlock.json"  # in a prefix: the environment is finished
RUNNER = "bin/verlock-run"  # in a prefix; environments that an older verlock made do not have it


def way(words: Sequence[str]) -> list[str] | None:
    """What to start in the place of this process for a command line of verlock, or None where the long way is the only one.

    It is short for `run VARIANT [--] PROGRAM...` where the environment for the variant's first Python is finished and has that
    program in its bin/.
    """
    if words[:1] != ["run"] or not words[1:] or not words[1].isalnum():
        return None
    command = list(words[3:] if words[2:3] == ["--"] else words[2:])
    envs = os.environ.get("VERLOCK_ENVS") or os.path.join(os.path.dirname(os.path.dirname(__file__)), "envs")
    prefix = os.path.join(os.path.abspath(envs), words[1])
    if not command or command[0].startswith("-") or os.pathsep in prefix or not os.path.isfile(f"{prefix}/{RECEIPT}"):
        return None
    needed = [f"{prefix}/{RUNNER}", f"{prefix}/bin/{command[0]}"]
    if not all(os.path.isfile(each) and os.access(each, os.X_OK) for each in needed):
        return None
    return [needed[0], *command]


def become(command: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Let a program take this process's place. Raises OSError where it cannot be started."""
    for each in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so in what it starts
        signal.signal(each, signal.SIG_DFL)
    sys.stdout.flush()
    os.execvpe(command[0], list(command), dict(variables))
    raise AssertionError("exec does not return")
