"""`doctor` as users start it: how long it takes, and `--deep` in a real environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from verlock import paths
from verlock.variant import receipt
from verlock.variant.chosen import choose


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verlock", "doctor", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=paths.ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_mirror_that_is_not_there_is_named():
    done = doctor("--json", VERLOCK_CONDA_MIRROR="http://192.0.2.1/channel")
    assert done.returncode in (0, 65), done.stderr
    said = [each for each in json.loads(done.stdout) if each["check"] == "network"]
    assert any("192.0.2.1" in each["said"] and each["state"] == "warning" for each in said)


@pytest.fixture
def chosen():
    chosen = choose("vllm073")
    if not (chosen.prefix / receipt.NAME).exists():
        pytest.skip(f"no environment at {chosen.prefix}: `nox -s env-{chosen.name}` makes it")
    return chosen


def test_deep_starts_what_is_installed(chosen):
    done = doctor("--deep", "vllm073", "--json")
    answers = {each["check"]: each for each in json.loads(done.stdout)}
    for name in ("requirements", "user site kept out", "imports", "NCCL", "Ray"):
        assert answers[name]["state"] == "ok", answers[name]
    assert "vllm 0.7.3" in answers["imports"]["said"] and "own" in answers["NCCL"]["said"]
    assert "Ray" in done.stderr  # what it does is shown while it does it
