"""`doctor --deep`: starts what is installed, one thing after the other, each in a process of its own inside the environment."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from verlock import console
from verlock.env import launcher
from verlock.env.doctor.findings import BAD, OK, Answer
from verlock.errors import VerlockError
from verlock.system import addresses, process, uv
from verlock.variant import receipt
from verlock.variant.chosen import Chosen

PATIENCE = 600  # seconds for one probe: a first import on a slow network file system takes minutes
_TAIL = 8  # lines of what a probe said when it failed


@dataclass(frozen=True)
class Probe:
    """Python code for the environment's interpreter; it prints what it found, and ends with an error where something is wrong.

    without: the artefact without which it cannot be asked.
    """

    name: str
    code: str
    remedy: str
    without: str = ""


_REBUILD = "`nox -s verify -- {name}` says whether files changed; if none did, please report this"

PROBES = (
    Probe(
        "user site kept out",
        """
import site, sys
own = site.getusersitepackages()
assert not site.ENABLE_USER_SITE and own not in sys.path, f"{own} is on sys.path"
outside = [p for p in sys.path if p and not p.startswith((sys.prefix, sys.base_prefix))]
assert not outside, f"on sys.path from elsewhere: {outside}"
print("sys.path has the environment and its Python alone")
""",
        "start it with `nox -s run` or `verlock-run`; a .pth file in the environment may name the folder",
    ),
    Probe(
        "imports",
        "import torch, vllm, verl\nprint(f'torch {torch.__version__}, vllm {vllm.__version__}, verl {verl.__version__}')",
        _REBUILD,
    ),
    Probe(
        "flash-attn",
        "import torch, flash_attn, flash_attn_2_cuda\nprint(f'flash-attn {flash_attn.__version__} loads')",
        "another flash-attn than torch's: `nox -s env-{name} -- --site-wheel none`, or `nox -s build-flash-attn -- {name}`",
        "flash-attn",
    ),
    Probe(
        "NCCL",
        """
import ctypes, torch
found = torch.cuda.nccl.version()
maps = [line.split()[-1] for line in open('/proc/self/maps') if 'libnccl' in line]
assert maps, "torch loads no libnccl"
import sys
outside = [path for path in set(maps) if not path.startswith(sys.prefix)]
assert not outside, f"NCCL is not the environment's own but {outside}"
print("NCCL " + ".".join(map(str, found)) + ", the environment's own")
""",
        "LD_LIBRARY_PATH or LD_PRELOAD brings another one: unset it",
    ),
    Probe(
        "Ray",
        """
import ray, sys
ray.init(address="local", num_cpus=1, include_dashboard=False, _temp_dir=sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=1)
def where():
    import sys
    return sys.prefix
found = ray.get(where.remote(), timeout=120)
assert found == sys.prefix, f"the task ran in {found}"
print(f"Ray {ray.__version__} starts and runs a task inside the environment")
""",
        "look at the limits and at /dev/shm above; a firewall on 127.0.0.1 or a proxy without NO_PROXY stops it too",
    ),
)


def look(chosen: Chosen) -> list[Answer]:
    """The answers of all probes, and whether all requirements are met; each is shown while it runs."""
    missing = receipt.read(chosen.prefix)["missing"]
    answers = [_asked("requirements", lambda: _requirements(chosen), "`nox -s env-{name}` puts it right", chosen)]
    for probe in PROBES:
        if probe.without in missing:
            continue
        answers.append(_asked(probe.name, lambda probe=probe: _said(chosen, probe), probe.remedy, chosen))  # type: ignore[misc]
    return answers


def _asked(name: str, ask: Callable[[], str], remedy: str, chosen: Chosen) -> Answer:
    with console.step(name, "...") as step:
        try:
            step.detail = ask()
            return Answer(name, OK, step.detail, "")
        except VerlockError as error:
            step.detail = "failed"
            return Answer(name, BAD, addresses.scrubbed(error.problem), remedy.format(name=chosen.name))


def _requirements(chosen: Chosen) -> str:
    uv.check(chosen.interpreter)
    return "the requirements of all packages are met"


def _said(chosen: Chosen, probe: Probe) -> str:
    """The last line that a probe prints. Raises VerlockError with the end of what it said, where it fails or hangs."""
    variables = launcher.variables(chosen.prefix, chosen.recipe.vllm.environment)
    variables["RAY_USAGE_STATS_ENABLED"] = "0"
    # sockets of Ray have paths of 107 characters at most, so its folder is in /tmp whatever TMPDIR says
    with tempfile.TemporaryDirectory(prefix="vl-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        command = [str(chosen.interpreter), "-c", probe.code, folder]
        try:
            done = subprocess.run(
                command, env=variables, cwd=Path(folder), capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            raise VerlockError(f"no end after {PATIENCE} s") from None
    if done.returncode or not done.stdout.strip():
        raise VerlockError(f"it ended with code {done.returncode}\n{process.tail(done.stderr, _TAIL)}")
    return done.stdout.strip().splitlines()[-1]
