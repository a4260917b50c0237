"""Byte code in an environment: Python runs a `.pyc` in place of its source, so it must be what its source says.

Compiling is the only proof, and takes a second for 300 files. So what was proven is remembered in verlock's cache, by the hashes
of interpreter, source and byte code; after that a file is only hashed. Who can write there can write the receipt as well.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from verlock import paths
from verlock.env import same_code
from verlock.errors import CheckFailed
from verlock.system import files, process
from verlock.variant.chosen import Chosen

_NAME = re.compile(r"(?P<module>.+)\.(?P<tag>cpython-[^.]+)(?:\.opt-(?P<level>[12]))?\.pyc")
FOLDER = "__pycache__"


@dataclass(frozen=True)
class Compiled:
    """A `.pyc` that Python may run, and the source that it is of."""

    path: str
    source: str
    level: int  # of optimisation


def compiled(path: str, python: str) -> Compiled | None:
    """What a file in `__pycache__` is; None where a Python of that version ("3.10") never reads it."""
    folder, _, name = path.rpartition("/")
    found = _NAME.fullmatch(name)
    if found is None or found["tag"] != f"cpython-{python.replace('.', '')}":
        return None
    return Compiled(path, f"{folder.removesuffix(FOLDER)}{found['module']}.py", int(found["level"] or 0))


def forged(chosen: Chosen, there: list[Compiled], hashes: Mapping[str, str]) -> list[Compiled]:
    """Those whose code is not that of their source.

    Args:
        chosen: which environment; its Python compiles.
        there: what is there.
        hashes: path -> hex sha256 of each of these files and of their sources.

    Raises:
        CheckFailed: its Python does not answer.
    """
    if not there:
        return []
    store = paths.cache_dir() / "byte-code" / sha256(str(chosen.prefix).encode()).hexdigest()[:16]
    proven = set(store.read_text(encoding="ascii").split()) if store.exists() else set()
    python = files.sha256_if_there(chosen.interpreter.resolve())
    keys = {
        each: sha256(f"{python} {hashes[each.source]} {hashes[each.path]} {each.level}".encode()).hexdigest()
        for each in there
    }
    new = [each for each in there if keys[each] not in proven]
    verdicts = _verdicts(chosen, new) if new else {}
    now = {keys[each] for each in there if verdicts.get(each, "same") == "same"}
    if now != proven:
        files.write_whole(store, "\n".join(sorted(now)))
    return [each for each, verdict in verdicts.items() if verdict == "other"]


def _verdicts(chosen: Chosen, asked: list[Compiled]) -> dict[Compiled, str]:
    """The verdict on each, from as many processes as there are cores."""
    cores = len(os.sched_getaffinity(0))
    shares = [share for share in (asked[n::cores] for n in range(cores)) if share]
    with ThreadPoolExecutor(cores) as pool:
        answers = pool.map(lambda share: _ask(chosen, share), shares)
        return {
            each: verdict
            for share, answer in zip(shares, answers, strict=True)
            for each, verdict in zip(share, answer, strict=True)
        }


def _ask(chosen: Chosen, share: list[Compiled]) -> list[str]:
    # no site, so that no file of the environment runs; and a folder for byte code where there is none to be found
    options = ("-I", "-S", "-B", "-W", "ignore", "-X", f"pycache_prefix={os.devnull}")
    again = f"make the environment again: delete {chosen.prefix}, and run `nox -s env-{chosen.name}`"
    try:
        done = subprocess.run(
            [chosen.interpreter, *options, Path(same_code.__file__)],
            input=json.dumps([(each.path, each.source, each.level) for each in share]),
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=process.VARIANT.environment(),
        )
    except OSError as error:
        raise CheckFailed(f"the Python of {chosen.prefix} does not start: {error.strerror}", again) from None
    if done.returncode:
        said = process.tail(done.stderr, 12)
        raise CheckFailed(f"the Python of {chosen.prefix} does not compile its sources\n{said}", again)
    answer: list[str] = json.loads(done.stdout)
    return answer
