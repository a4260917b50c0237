"""The printed script under a real Slurm: a controller and two nodes on this machine, and a real environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm
import toy

from verlock import paths
from verlock.proving import launch_config
from verlock.proving.passes import Part
from verlock.smoke import gates, report
from verlock.smoke.gates import Gate
from verlock.system.gpu import Gpus
from verlock.variant import receipt

pytestmark = pytest.mark.skipif(bool(slurm.lacks()), reason=slurm.lacks() or "Slurm is there")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # what a job on one machine needs, as a user would export it: two nodes are one host here
    before = {**os.environ}
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with slurm.Cluster(tmp_path_factory.mktemp("slurm")) as started:
        os.environ.clear()
        os.environ.update(before)
        yield started


@pytest.fixture
def script(chosen, tmp_path):
    """What `verlock run vllm073 --sbatch` prints, in a process of its own."""

    def printed(*line):
        command = [
            sys.executable,
            "-m",
            "verlock",
            "run",
            "vllm073",
            "--sbatch",
            "--nodes",
            "2",
            "--chdir",
            str(tmp_path),
            *line,
        ]
        return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True).stdout

    return printed


def run(cluster, text, folder, seconds=400):
    """Submit, wait for the end; returns the state and the output."""
    job = cluster.submit(text)
    output = folder / f"vllm073-{job}.out"
    state = cluster.wait(job, output, seconds=seconds)
    return state, output.read_text() if output.exists() else ""


def test_every_rank_has_its_place_and_runs_inside_the_environment(cluster, script, tmp_path, chosen):
    # torchrun's ranks are unbuffered: `print` with several words writes several times, and two ranks' lines get mixed
    code = "import os, sys; said = ['rank', *(os.environ[name] for name in sys.argv[1:]), sys.prefix]"
    code += "; os.write(1, (' '.join(said) + chr(10)).encode())"
    state, said = run(
        cluster,
        script(
            "--gpus-per-node", "2", "--", "python", "-c", code, "RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURMD_NODENAME"
        ),
        tmp_path,
    )
    assert state == "COMPLETED", said
    places = [(0, 0, "n0"), (1, 1, "n0"), (2, 0, "n1"), (3, 1, "n1")]
    assert sorted(re.findall(r"^rank .*$", said, re.MULTILINE)) == [
        f"rank {rank} 4 {local} {node} {chosen.prefix}" for rank, local, node in places
    ]


def test_a_rank_that_is_killed_ends_the_job_on_all_nodes_soon(cluster, script, tmp_path):
    command = ["sh", "-c", '[ "$RANK" = 1 ] && kill -9 $$; exec sleep 1234']
    start = time.monotonic()
    state, said = run(cluster, script("--gpus-per-node", "1", "--", *command), tmp_path)
    assert state == "FAILED", said
    assert time.monotonic() - start < 300
    assert subprocess.run(["pgrep", "-fx", "sleep 1234"], check=False).returncode == 1


@pytest.mark.parametrize("wrong", ["digest", "place"])
def test_a_node_that_cannot_use_the_environment_is_named_before_anything_starts(
    cluster, script, tmp_path, chosen, wrong
):
    text = script("--gpus-per-node", "1", "--", "echo", "it runs")
    digest = receipt.read(chosen.prefix)["digest"]
    text = (
        text.replace(digest, "0" * 64)
        if wrong == "digest"
        else text.replace(str(chosen.prefix), str(tmp_path / "none"))
    )
    state, said = run(cluster, text, tmp_path)
    assert state == "FAILED" and "it runs" not in said, said
    assert sorted(set(re.findall(r"verlock: node (n.) cannot use ", said))) == ["n0", "n1"], said


@pytest.mark.slow("imports torch and verl in two ranks, twice: the job is killed once and starts again")
def test_the_rehearsal_of_the_smoke_run_as_a_job_on_two_nodes_killed_and_requeued_once(
    cluster, script, tmp_path, chosen
):
    # one GPU a node: gate 10 knows that as ranks which share a GPU, each a host of its own
    config = launch_config.configuration(
        chosen, Gpus("none", 1, 0, "580.159.04"), Part("eager", 2, 1), tmp_path / "run"
    )
    config |= {
        "device": "cpu",
        "engine": "rehearsal:RehearsalEngine",
        "imports": ["torch", "verl"],
        "sizes": toy.SIZES,
    }
    folder = Path(config["folder"])
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    tests = Path(__file__).parent.parent
    settings = {"PYTHONPATH": f"{paths.ROOT}{os.pathsep}{tests}", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    command = [
        "env",
        *(f"{name}={value}" for name, value in settings.items()),
        "python",
        "-m",
        "verlock.smoke",
        str(path),
    ]
    job = cluster.submit(script("--gpus-per-node", "1", "--", *command))
    output = tmp_path / f"vllm073-{job}.out"

    beats = [folder / f"heartbeat-{rank}.json" for rank in (0, 1)]
    until(lambda: all(at_work(beat) for beat in beats) or cluster.state(job) not in ("RUNNING", "PENDING"), output)
    assert cluster.state(job) == "RUNNING", output.read_text()
    cluster.ask("scontrol", "requeue", job)
    until(lambda: cluster.state(job) == "PENDING", output)
    state = cluster.wait(job, output, seconds=900)
    said = output.read_text()
    assert state == "COMPLETED", said
    assert "start 1," in said and "start 2," in said
    (only,) = report.read(folder)["passes"]
    assert {Gate.from_dict(gate).verdict for gate in only["gates"]} == {gates.PASS}


@pytest.mark.slow("starts Ray on two nodes")
def test_a_job_with_ray_of_its_own_on_both_nodes(cluster, script, tmp_path, chosen):
    code = (
        "import ray, sys; ray.init(log_to_driver=False); print('resources', ray.cluster_resources()['GPU'], sys.prefix)"
    )
    state, said = run(
        cluster, script("--ray", "--gpus-per-node", "2", "--", "python", "-c", code), tmp_path, seconds=600
    )
    assert state == "COMPLETED", said
    assert "verlock: 2 nodes with Ray" in said and f"resources 4.0 {chosen.prefix}" in said
    (folder,) = Path("/tmp").glob(f"verlock-ray-{re.search('job ([0-9]+)', said)[1]}")
    shutil.rmtree(folder)


def at_work(beat: Path) -> bool:
    """Is this rank behind its imports: with a trainer, an engine, or in a gate?"""
    return beat.exists() and any(phase in beat.read_text() for phase in ("trainer", "engine", "gate"))


def until(done, output, seconds=400):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, output.read_text() if output.exists() else "no output"
        time.sleep(0.2)
