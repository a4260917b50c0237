"""The watchdog on real processes: a hang in one rank of two ends the run with the stacks of both."""

import os
import subprocess
import sys
import time

import pytest

from verlock import paths
from verlock.smoke import gates, watchdog

RANKS = """
import os, subprocess, sys, time
from pathlib import Path
from verlock.smoke.watchdog import Heartbeat

def blocks_forever():
    while True:
        time.sleep(0.2)

def waits_in_c():
    os.read(os.pipe()[0], 1)

folder, what = Path(sys.argv[1]), sys.argv[2]
if len(sys.argv) == 3:  # the launcher: a session of its own for every rank, as torchrun makes
    ranks = [subprocess.Popen([sys.executable, __file__, *sys.argv[1:], str(r)], start_new_session=True) for r in range(2)]
    sys.exit(max(rank.wait() for rank in ranks))
rank = int(sys.argv[3])
heart = Heartbeat(folder, rank)
with heart.phase("fine", 30.0):
    pass
with heart.phase("gate 6", 1.0 if what == "hang" else 30.0):
    if what == "hang":
        blocks_forever() if rank else waits_in_c()
    if what == "die":
        os.kill(os.getpid(), 9)
heart.done()
"""


@pytest.fixture
def ranks(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    folder = tmp_path / "run"
    folder.mkdir()

    def run(what, first=30.0):
        environment = {**os.environ, "PYTHONPATH": str(paths.ROOT)}
        command = [sys.executable, str(script), str(folder), what]
        return watchdog.supervise(command, environment, folder, tmp_path / "log.txt", first)

    run.folder = folder
    return run


def alive(pid):
    """Running, and no zombie that only waits for init to take note."""
    try:
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        pytest.skip("no ps on this machine")
    return bool(state.strip()) and not state.strip().startswith("Z")


def test_a_hang_ends_with_every_ranks_stack(ranks):
    start = time.monotonic()
    outcome = ranks("hang")
    assert outcome.hung
    assert outcome.phase == "gate 6"
    assert time.monotonic() - start < 15
    assert "waits_in_c" in outcome.stacks[0]
    assert "blocks_forever" in outcome.stacks[1]
    gate = gates.watchdog(outcome.silence, outcome.phase, outcome.limit, outcome.hung)
    assert gate.verdict == gates.FAIL
    assert "'gate 6'" in gate.sentence


def test_nothing_outlives_a_hang(ranks):
    ranks("hang")
    pids = [beat["pid"] for beat in watchdog.beats(ranks.folder)]
    assert len(pids) == 2
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def test_a_run_that_ends_is_left_alone(ranks):
    outcome = ranks("work")
    assert (outcome.code, outcome.hung, outcome.stacks) == (0, False, {})


def test_a_rank_that_dies_is_no_hang(ranks):
    outcome = ranks("die")
    assert outcome.code
    assert not outcome.hung


def test_a_launcher_that_never_starts_a_rank_is_a_hang(tmp_path):
    outcome = watchdog.supervise(
        [sys.executable, "-c", "import time; time.sleep(60)"], os.environ, tmp_path, tmp_path / "log", first=0.5
    )
    assert outcome.hung
    assert outcome.phase == "start"
