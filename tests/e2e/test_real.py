"""The real environments, where they are built: what they import, that they verify, and that one changed byte is found.

They are looked for in VERLOCK_ENVS, else in `envs/`; what is not built is skipped and says so.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from packaging.tags import parse_tag
from packaging.utils import parse_wheel_filename

from verlock import paths
from verlock.env import installed
from verlock.errors import NotSealed
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import choose, names

VARIANTS = [chosen for name in names() for chosen in choose(name).pythons()]


@pytest.fixture(params=VARIANTS, ids=lambda chosen: f"{chosen.name}-{chosen.python}")
def built(request):
    """A variant and Python whose environment is built from today's lock."""
    chosen = request.param
    again = f"nox -s env-{chosen.name}"
    try:
        sealed = receipt.read(chosen.prefix)
    except NotSealed:
        pytest.skip(f"{chosen.prefix.name} is not built: {again}")
    if sealed["digest"] != chosen.digest:
        pytest.skip(f"{chosen.prefix.name} was made from another lock: {again}")
    return chosen


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "verlock", *words], cwd=paths.ROOT, capture_output=True, text=True, check=False
    )


def test_versions(built):
    """Of the code that is imported, not of the metadata beside it."""
    code = "import torch, vllm, verl; print('VERSIONS', torch.__version__, vllm.__version__, verl.__version__)"
    done = subprocess.run([built.interpreter, "-c", code], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("VERSIONS")]
    torch, vllm, verl = line.split()[1:]
    pins = {pin.name: pin.version for pin in built.pins}
    assert torch.partition("+")[0] == pins["torch"].partition("+")[0]
    editable = receipt.read(built.prefix)["editable"]
    for package, version, wanted in [
        ("vllm", vllm, built.recipe.vllm.version),
        ("verl", verl, built.recipe.verl.version),
    ]:
        assert version == wanted or package in editable


def test_the_files_that_files_json_names_are_those_that_were_installed(built):
    """By Python and ABI in a wheel's metadata; the platform stands there as it was before the wheel got its last name."""
    listed = lockfiles.files(built.locks)[lockfiles.REQUIREMENTS]["files"]
    there = installed.packages(built.site)
    wheels = {each["package"]: each["filename"] for each in listed if each["filename"].endswith(".whl")}
    assert len(wheels) > 150
    other = []
    for package, filename in wheels.items():
        text = (there[package][1] / "WHEEL").read_text(encoding="utf-8")
        own = {tag for line in re.findall(r"^Tag: (\S+)", text, re.MULTILINE) for tag in parse_tag(line)}
        kinds = [{(tag.interpreter, tag.abi) for tag in tags} for tags in (own, parse_wheel_filename(filename)[3])]
        if not kinds[0] & kinds[1]:
            other.append((filename, sorted(map(str, own))))
    assert other == []


def test_it_verifies_and_one_changed_byte_is_found_and_nothing_is_made_again(built):
    prefix, words = built.prefix, (built.name, "--python", built.python)
    done = command("verify", *words)
    assert done.returncode == 0, done.stderr

    victim = built.site / "verl/__init__.py"
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

    done = command("create", *words)
    assert done.returncode == 0 and "up to date" in done.stderr, done.stderr
    assert (prefix / receipt.NAME).read_bytes() == before
