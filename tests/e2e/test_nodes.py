"""A smoke run over two nodes: two network namespaces of this machine with a cable between them, an agent and torchrun in each.

As on two machines, neither reaches the other's loopback. vLLM and the GPU are stood in for, as in test_rehearsal.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import toy

from verlock import paths
from verlock.variant import certificate

NAMES = ["", ""]  # of the two namespaces, new for each test
HOSTS = ("10.213.7.1", "10.213.7.2")
AT = f"{HOSTS[0]}:29513"
AGENT = Path(__file__).parent / "node_agent.py"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def lacks() -> str:
    """Why this machine cannot have two network namespaces; empty where it can."""
    if not shutil.which("ip"):
        return "no `ip` here: apt-get install iproute2"
    try:
        ip("netns", "add", "verlock-tries")
        ip("netns", "delete", "verlock-tries")
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted here: {error.stderr.strip()}"
    return ""


pytestmark = pytest.mark.skipif(bool(reason := lacks()), reason=reason or "namespaces are permitted")


@pytest.fixture
def cable():
    """Two namespaces and a cable between them."""
    try:
        # where another process has it mounted, a deleted namespace leaves its name behind
        NAMES[:] = [f"verlock-{uuid.uuid4().hex[:8]}-{node}" for node in range(2)]
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", "verlock0", "netns", NAMES[0], "type", "veth", "peer", "name", "verlock1", "netns", NAMES[1])
        for number, (name, host) in enumerate(zip(NAMES, HOSTS, strict=True)):
            ip("-n", name, "addr", "add", f"{host}/24", "dev", f"verlock{number}")
            ip("-n", name, "link", "set", f"verlock{number}", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def start(cable, chosen, nvidia_smi, tmp_path, monkeypatch):
    """A function that starts the agent of one node with some options, in the node's namespace."""
    nvidia_smi(("NVIDIA H100 80GB HBM3", 81559, "580.159.04"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "VERLOCK_REHEARSAL"):
        monkeypatch.delenv(name, raising=False)
    started = []

    def agent(node, *options, patience=60, **config):
        folder = tmp_path / f"node{node}"
        folder.mkdir(exist_ok=True)
        stand_ins = {
            "device": "cpu",
            "engine": "rehearsal:RehearsalEngine",
            "imports": ["torch", "verl"],
            "sizes": toy.SIZES,
            "limits": {"imports": 600.0, "trainer": 600.0, "engine": 600.0, "gate": 600.0},
        }
        settings = folder / "settings.json"
        told = {"certificates": str(folder / "certificates"), "patience": patience, "config": {**stand_ins, **config}}
        settings.write_text(json.dumps(told))
        place = ["--nnodes", "2", "--node-rank", str(node), "--rendezvous", AT]
        command = ["ip", "netns", "exec", NAMES[node], sys.executable, AGENT, settings, "smoke", chosen.name, *place]
        command += ["--python", chosen.python, "--json", folder / "report.json", *options]
        child = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        started.append(child)
        return child

    yield agent
    for child in started:
        if child.poll() is None:
            child.kill()
            child.wait()


def both(start, *options, **config):
    """Start both agents alike; gives exit code and output of each."""
    children = [start(node, *options, **config) for node in (1, 0)]
    said = [child.communicate(timeout=1500)[0] for child in children]
    return [(child.returncode, text) for child, text in zip(children, said, strict=True)][::-1]


@pytest.mark.slow("torch and verl are imported on two nodes, three times")
def test_two_nodes_are_certified_as_two_nodes(start, tmp_path, monkeypatch):
    (code, said), (other_code, other_said) = both(start)
    assert (code, other_code) == (0, 0), said + other_said
    report = json.loads((tmp_path / "node0" / "report.json").read_text())
    assert [(run["mode"], run["tp"], run["nodes"]) for run in report["runs"]] == [
        ("eager", 2, 2), ("graphs", 2, 2), ("eager", 1, 2), ("eager and graphs", 2, 2)
    ]  # fmt: skip
    assert {gate["verdict"] for run in report["runs"] for gate in run["gates"]} == {"pass"}
    placed = [gate["value"] for run in report["runs"] for gate in run["gates"] if gate["id"] == "10"]
    assert all(value.startswith("2 ranks on 2 GPUs of 2 nodes") for value in placed) and len(placed) == 3
    (path,) = (tmp_path / "node0" / "certificates").rglob("*.json")
    assert path.parent.name == "2-nodes"
    data = certificate.of(json.loads(path.read_text()))
    assert (data["nodes"], data["layouts"]) == (2, ["2 ranks on 2 GPUs of 2 nodes"])
    assert "TP=1" in said and "TP=1" not in other_said.replace("TP=1,", ""), "tables are node 0's"
    assert sorted(path.name for path in (tmp_path / "node1").iterdir()) == ["settings.json"], "node 1 writes nothing"


def test_agents_with_other_options_are_told_so_on_both_nodes(start):
    children = [start(0, "--tp", "2"), start(1, "--tp", "1")]
    for child in children:
        said, _ = child.communicate(timeout=120)
        assert child.returncode == 56, said
        assert "--tp is 1 on node 1, and 2 on node 0" in said


@pytest.mark.parametrize(
    ("node", "says"), [(0, f"node 1 did not come to {AT} within 3 s"), (1, f"nobody answers at {AT}")]
)
def test_a_node_alone_ends_with_a_sentence_when_its_time_is_over(start, node, says):
    child = start(node, patience=3)
    said, _ = child.communicate(timeout=120)
    assert child.returncode == 57 and says in said, said


def test_an_engine_that_does_not_start_on_the_other_node_is_told_on_both(start):
    """Node 0's rank only sees that its connection is closed; what counts is why."""
    children = [
        start(0, "--mode", "eager", "--tp", "2"),
        start(1, "--mode", "eager", "--tp", "2", llm={"fail": "no memory"}),
    ]
    for child in children:
        said, _ = child.communicate(timeout=600)
        assert child.returncode == 51, said
        assert "no memory" in said
