"""`verlock-run` in an environment that `create` made, and how long it takes to start Python."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import toy

pytestmark = pytest.mark.skipif(toy.compiler() is None, reason="no C compiler to make the toy's shared objects with")


@pytest.fixture
def made(tmp_path):
    project = toy.Project(tmp_path)
    project.create()
    return project


def test_verlock_run_needs_nothing_of_verlock_and_verify_knows_it(made):
    runner = made.prefix / "bin/verlock-run"
    assert "bin/verlock-run" in made.receipt()["files"]
    code = "import os, sys, vllm; print(sys.prefix, vllm.__version__, os.environ['VLLM_USE_V1'])"
    done = subprocess.run([runner, "python", "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout == f"{made.prefix} 0.7.3 0\n"
    text = runner.read_text()
    runner.write_text(text.replace("export VLLM_USE_V1=0", "export VLLM_USE_V1=1"))
    assert "bin/verlock-run" in made.verify(code=46)
    made.create()
    assert runner.read_text() == text
    runner.unlink()
    assert "bin/verlock-run" in made.verify(code=47)


def test_an_environment_of_before_there_was_one_is_whole_and_stays_as_it_is(made):
    (made.prefix / "bin/verlock-run").unlink()
    path = made.prefix / "verlock.json"
    sealed = made.receipt()
    del sealed["files"]["bin/verlock-run"]
    # as an older verlock left it: the file is not there, the receipt does not name it
    code = (
        "import sys, pathlib; from verlock.variant import receipt as r; print(r.fingerprint(pathlib.Path(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, made.prefix], cwd=made.root, capture_output=True, text=True, check=True
    )
    path.write_text(json.dumps({**sealed, "fingerprint": done.stdout.strip()}))
    before = path.stat().st_mtime_ns
    made.verify()
    assert "up to date" in made.create() and path.stat().st_mtime_ns == before
    assert not (made.prefix / "bin/verlock-run").exists()
    ran = made.run("run", "toy", "python", "-c", "import vllm, os; print(vllm.__version__, os.environ['VLLM_USE_V1'])")
    assert (ran.returncode, ran.stdout) == (0, "0.7.3 0\n")
