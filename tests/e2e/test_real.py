"""The real environments, where they are built: what they import, that they verify, and that one changed byte is found.

They are looked for in VERLOCK_ENVS, else in `envs/`; what is not built is skipped and says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from verlock import paths
from verlock.errors import NotSealed
from verlock.variant import receipt
from verlock.variant.chosen import choose, names

VARIANTS = [(name, python) for name in names() for python in choose(name).recipe.python]
TORCH = {"vllm083": "2.6.0"}


@pytest.fixture(params=VARIANTS, ids="-".join)
def built(request):
    """(recipe, Python, prefix) of an environment that is built from today's lock."""
    name, python = request.param
    loaded = choose(name).recipe
    prefix = choose(loaded.name, python).prefix
    try:
        sealed = receipt.read(prefix)
    except NotSealed:
        pytest.skip(f"{prefix.name} is not built: nox -s env-{name}")
    if sealed["digest"] != choose(name, python).digest:
        pytest.skip(f"{prefix.name} was made from another lock: nox -s env-{name}")
    return loaded, python, prefix


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "verlock", *words], cwd=paths.ROOT, capture_output=True, text=True, check=False
    )


def test_versions(built):
    """Of the code that is imported, not of the metadata beside it."""
    loaded, _, prefix = built
    code = "import torch, vllm, verl; print('VERSIONS', torch.__version__, vllm.__version__, verl.__version__)"
    done = subprocess.run([prefix / "bin/python", "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("VERSIONS")]
    torch, vllm, verl = line.split()[1:]
    assert torch.partition("+")[0] == TORCH.get(loaded.name, "2.5.1")
    assert (vllm, verl) == (loaded.vllm.version, loaded.verl.version)


def test_it_verifies_and_one_changed_byte_is_found_and_nothing_is_made_anew(built):
    loaded, python, prefix = built
    words = (loaded.name, "--python", python)
    done = command("verify", *words)
    assert done.returncode == 0, done.stderr

    victim = paths.site_packages(prefix, python) / "verl/__init__.py"
    kept = victim.with_name("verlock-test-kept")
    before = (prefix / receipt.NAME).read_bytes()
    victim.rename(kept)  # the file itself, which uv's cache shares, is moved away and back: only a copy is changed
    try:
        data = bytearray(kept.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
        shutil.copystat(kept, victim)
        done = command("verify", *words, "--json")
    finally:
        kept.replace(victim)
    (prefix / receipt.NAME).write_bytes(before)
    assert done.returncode == 46, done.stderr
    assert [item["path"].rpartition("/")[2] for item in json.loads(done.stdout)["damage"]] == ["__init__.py", kept.name]

    editable = ["--editable"] if receipt.read(prefix)["editable"] else []
    done = command("create", *words, *editable)
    assert done.returncode == 0 and "up to date" in done.stderr, done.stderr
    assert (prefix / receipt.NAME).read_bytes() == before
