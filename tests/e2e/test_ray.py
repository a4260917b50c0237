"""Ray inside an environment: a head and a worker node on this machine, beside another Ray that is the user's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from verlock import paths
from verlock.env import launcher
from verlock.shipping import ray

pytestmark = pytest.mark.slow("starts three nodes of Ray, and workers that import it, on this machine")
PATIENCE = 400  # seconds for one of these to start, where others work too


class Nodes:
    """Nodes of Ray that are started here and end with the test, by their own process groups."""

    def __init__(self, chosen, folder: Path) -> None:
        self.chosen, self.folder = chosen, folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(
        self, name: str, *options: str, command=None, done: str = "Ray runtime started", **variables: str
    ) -> Path:
        """Start one, and wait until it says so; returns its log."""
        log = self.folder / f"{name}.log"
        command = command or [str(self.chosen.prefix / launcher.NAME), "ray", "start"]
        with log.open("wb") as out:
            whole = [*command, *options, *ray.NODE, "--num-cpus=1", "--num-gpus=0", "--block"]
            environment = {**os.environ, **variables}
            self.started.append(
                subprocess.Popen(whole, stdout=out, stderr=out, env=environment, start_new_session=True)
            )
        end = time.monotonic() + PATIENCE
        while done not in log.read_text(errors="replace"):
            assert self.started[-1].poll() is None and time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.3)
        return log

    def end(self) -> None:
        for process in reversed(self.started):
            for child in _below(process.pid):  # the daemons of a node have groups of their own
                _kill(child)
            _kill(process.pid)
            process.wait()


def _below(process: int) -> list[int]:
    try:
        children = [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in children for each in (*_below(child), child)]


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def head(free_port) -> list[str]:
    return [*ray.HEAD, f"--ray-client-server-port={free_port()}"]


@pytest.fixture
def nodes(chosen):
    folder = Path(tempfile.mkdtemp(prefix="vr", dir="/tmp"))  # short: sockets have paths of 107 characters
    started = Nodes(chosen, folder)
    yield started
    started.end()
    shutil.rmtree(folder, ignore_errors=True)


def verlock(*line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verlock", "run", "vllm073", *line]
    return subprocess.run(
        command,
        cwd=paths.ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


COUNT = "import ray; ray.init(address=__import__('sys').argv[1], log_to_driver=False); print('NODES', len(ray.nodes()))"
# a head whose Ray is, as it says itself, of another version
OTHER = "import ray, sys; ray.__version__ = '2.39.0'; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"


def test_tasks_run_inside_the_environment_on_every_node_and_the_user_s_own_ray_is_left_alone(nodes, free_port, chosen):
    users, ours = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    own = ["--head", f"--port={users.partition(':')[2]}", *head(free_port)]
    nodes.start("users", *own, f"--temp-dir={nodes.folder}/u")
    nodes.start(
        "head",
        "--head",
        f"--port={ours.partition(':')[2]}",
        *head(free_port),
        f"--temp-dir={nodes.folder}/h",
        RAY_ADDRESS=users,
    )
    nodes.start("worker", f"--address={ours}", RAY_ADDRESS=users)

    done = verlock("--ray-check", ours, RAY_ADDRESS=users, PYTHONPATH="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert "2 nodes with Ray 2.40.0" in done.stdout and str(chosen.prefix) in done.stdout

    counted = verlock("--", "python", "-c", COUNT, users, RAY_ADDRESS=ours)
    assert "NODES 1" in counted.stdout, counted.stderr
    assert all(process.poll() is None for process in nodes.started)


def test_another_version_of_ray_is_named_before_anything_starts(nodes, free_port, chosen):
    port = free_port()
    other = [str(chosen.prefix / launcher.NAME), "python", "-c", OTHER, "start"]
    nodes.start("other", "--head", f"--port={port}", *head(free_port), f"--temp-dir={nodes.folder}/o", command=other)
    done = verlock("--ray-check", f"127.0.0.1:{port}")
    assert done.returncode == 1, done.stdout
    assert "2.39.0" in done.stderr and "2.40.0" in done.stderr and "verlock-run ray start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def free_port():
    from slurm import free_ports

    return lambda: free_ports(1)[0]
