"""The exports of real locks, with the addresses of the user's index: what uv would install from them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from verlock.shipping import exports
from verlock.system import host_python
from verlock.variant import lockfiles
from verlock.variant.chosen import choose


@pytest.mark.parametrize("variant", ["vllm073", "vllm083"])
def test_uv_would_install_exactly_the_pins_from_the_pylock(tmp_path, variant):
    chosen = choose(variant)
    host = host_python.find(chosen.python)
    if host is None:
        pytest.skip(f"there is no CPython {chosen.python}")
    file = tmp_path / "pylock.toml"
    file.write_text(exports.pylock(chosen))
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", host.executable, tmp_path / "venv"], check=True)
    command = [*uv, "pip", "install", "--dry-run", "--python", tmp_path / "venv/bin/python", "-r", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    planned = {
        lockfiles.normalise(name): version
        for name, version in re.findall(r"^ \+ (\S+)==(\S+)", done.stderr, re.MULTILINE)
    }
    artefacts = {each.package for each in chosen.recipe.artefact if each.file_for(chosen.recipe.torch, chosen.python)}
    assert artefacts == {"flash-attn"} <= planned.keys()
    assert {name: version for name, version in planned.items() if name not in artefacts} == {
        pin.name: pin.version for pin in chosen.pins
    }
