"""How a program starts inside an environment: its variables, for a process and as lines of a shell, and `bin/verlock-run`.

All three say the same, and all from two sources: `process.VARIANT` (what is kept out) and the recipe (what is set).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from verlock import straight
from verlock.system import process

NAME = straight.RUNNER

_NOT_FOUND = 127  # what env(1) and every shell answer where there is no such program

_PROXY = """\
if env | LC_ALL=C grep -Eiq '^({names})='; then
    no_proxy=${{no_proxy:-${{NO_PROXY:-}}}}
    case ",$no_proxy," in *,\\*,*) ;; *) no_proxy="${{no_proxy:+$no_proxy,}}{here}" ;; esac
    NO_PROXY=$no_proxy
    export no_proxy NO_PROXY
fi
"""

_RUN = """\
#!/bin/sh
# Runs a command inside this environment, on any machine that has this folder at this path: verlock-run COMMAND [ARGUMENT...]
# Written by verlock, which `verify` holds it against; nothing beside this folder is needed. The command takes this process's
# place, so its exit code and signals are its own. `verlock-run env NAME=VALUE COMMAND` sets a variable that is kept out below.
prefix={prefix}
if ! [ "$0" -ef "$prefix/{name}" ]; then
    echo "verlock-run: this environment was made at $prefix, and its scripts point there" >&2
    echo "  have the folder at that very path on this machine, or make the environment where it is to be" >&2
    exit {not_found}
fi
if ! [ -x "$prefix/bin/python" ]; then
    echo "verlock-run: $prefix/bin/python leads to no Python on this machine: $(readlink "$prefix/bin/python")" >&2
    echo "  the environment stands on the host's Python: install that one here at the same path, or make it with --base conda" >&2
    exit {not_found}
fi
if [ $# -eq 0 ]; then
    echo "usage: verlock-run COMMAND [ARGUMENT...]" >&2
    exit 2
fi
{lines}exec "$@"
"""


def variables(prefix: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """The variables of a program inside the environment at `prefix`: this process's, as the policy and the recipe have them.

    Args:
        prefix: the environment.
        settings: the recipe's `[vllm.environment]`.
    """
    path = os.pathsep.join([str(prefix / "bin"), os.environ.get("PATH") or os.defpath])
    return process.VARIANT.environment(**settings, PATH=path)


def lines(prefix: Path, settings: Mapping[str, str]) -> str:
    """The same as lines for a POSIX shell, whatever its variables are by then. The arguments are those of `variables`."""
    dropped = "|".join(_extended(pattern) for pattern in process.VARIANT.drops)
    proxies = "|".join(process.PROXIES)
    text = f"unset -v _ $(env | LC_ALL=C sed -n -E 's/^({dropped})=.*/\\1/Ip')\n"
    text += _PROXY.format(names=proxies, here=",".join(process.THIS_MACHINE))
    text += "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in sorted({**process.VARIANT.sets, **settings}.items())
    )
    return text + f'export PATH={shlex.quote(f"{prefix}/bin")}:"${{PATH:-{os.defpath}}}"\n'


def write(prefix: Path, settings: Mapping[str, str]) -> None:
    """Put `bin/verlock-run` into a prefix. The arguments are those of `variables`."""
    path = prefix / NAME
    text = _RUN.format(prefix=shlex.quote(str(prefix)), name=NAME, not_found=_NOT_FOUND, lines=lines(prefix, settings))
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _extended(pattern: str) -> str:
    """A pattern of a policy as one that sed and grep know: `*` stands for what a variable's name may hold."""
    return re.escape(pattern).replace(r"\*", "[A-Za-z0-9_]*")
