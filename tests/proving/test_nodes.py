"""The agents of several nodes: they come together, or say on every node why not, and hear how a launch ended elsewhere."""

import json
import socket
import threading
import time
from dataclasses import asdict

import pytest

from verlock.errors import NodeMissing, NodesDiffer
from verlock.proving import nodes
from verlock.proving.nodes import Agents, Place
from verlock.proving.smoke_launch import Ended
from verlock.smoke.watchdog import Outcome

SAME = {"the digest": "abc", "--ranks": "2"}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(nodes, "AGAIN", 0.05)
    monkeypatch.setattr(nodes, "HELLO", 0.5)
    monkeypatch.setattr(nodes, "SLACK", 2.0)


def together(count, act=lambda agents: agents.gather(agents.place.rank, 5.0), patience=5.0, port=0, **others):
    """What `act` gives on each node, or the error it ends with; an agent that differs is given as node1=(rank, count, same)."""
    port = port or nodes.free_port()
    found = {}

    def run(number, rank, of, same):
        try:
            agents = Agents(Place(of, rank, "127.0.0.1", port), same, patience)
        except Exception as error:
            found[number] = error
            return
        try:
            found[number] = act(agents)
        except Exception as error:
            found[number] = error
        finally:
            agents.close()

    threads = []
    for number in range(count):
        one = others.get(f"node{number}", (number, count, SAME))
        if one:
            threads.append(threading.Thread(target=run, args=(number, *one)))
    for each in reversed(threads):  # node 0 is the last to start: the others try until it is there
        each.start()
        time.sleep(0.1)
    for each in threads:
        each.join()
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_what_each_has_is_known_to_all_in_the_order_of_the_nodes(count):
    expected = list(range(count))
    assert together(count) == dict.fromkeys(range(count), expected)


def test_they_may_gather_again_and_again():
    def twice(agents):
        return [agents.gather({"of": agents.place.rank}, 5.0), agents.gather("done", 5.0)]

    assert together(2, twice)[1] == [[{"of": 0}, {"of": 1}], ["done", "done"]]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ((1, 2, {**SAME, "the digest": "xyz"}), "the digest is xyz on node 1, and abc on node 0"),
        ((1, 2, {**SAME, "--ranks": "4"}), "--ranks is 4 on node 1, and 2 on node 0"),
        ((1, 2, {"the digest": "abc"}), "--ranks is not given on node 1, and 2 on node 0"),
        ((1, 3, SAME), "--nnodes is 3 on node 1, and 2 on node 0"),
    ],
)
def test_what_differs_is_told_on_every_node(other, says):
    found = together(2, node1=other)
    for number in (0, 1):
        assert isinstance(found[number], NodesDiffer) and says in found[number].problem
    assert found[0].exit_code == 56


def test_two_agents_with_one_rank_are_told_so():
    found = together(3, node2=(1, 3, SAME))
    assert all(isinstance(each, NodesDiffer) for each in found.values())
    assert {each.problem for each in found.values()} == {"two agents were started with --node-rank 1"}


def test_a_node_that_never_comes_is_named_to_those_who_came():
    began = time.monotonic()
    found = together(3, node2=None, patience=1.0)
    assert time.monotonic() - began < 5
    for number in (0, 1):
        assert isinstance(found[number], NodeMissing)
        assert "node 2 did not come to 127.0.0.1:" in found[number].problem and "within 1 s" in found[number].problem
    assert found[0].exit_code == 57


def test_without_node_0_the_others_end_by_themselves():
    found = together(2, node0=None, patience=0.5)
    assert isinstance(found[1], NodeMissing) and "nobody answers at 127.0.0.1:" in found[1].problem


def test_a_port_that_is_in_use_is_a_sentence():
    refused = pytest.raises(NodeMissing, match="node 0 cannot listen at port")
    with socket.create_server(("", 0)) as taken, refused as caught:
        Agents(Place(2, 0, "127.0.0.1", taken.getsockname()[1]), SAME, 1.0)
    assert "free port" in caught.value.remedy


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"[1]\n", b""])
def test_a_stranger_at_the_port_is_no_node(words):
    port = nodes.free_port()

    def knock():
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as stranger:
                    stranger.sendall(words)
                    time.sleep(0.2)
                return
            except OSError:
                time.sleep(0.01)

    thread = threading.Thread(target=knock)
    thread.start()
    assert together(2, port=port) == {0: [0, 1], 1: [0, 1]}
    thread.join()


def test_an_agent_that_is_gone_is_told_to_the_others():
    def leaves(agents):
        return "left" if agents.place.rank == 1 else agents.gather("here", 2.0)

    found = together(3, leaves)
    assert "the agent of node 1 is gone" in found[0].problem and found[1] == "left"
    assert found[2].problem == found[0].problem
    found = together(2, lambda agents: "left" if agents.place.leads else agents.gather("here", 1.0))
    assert isinstance(found[1], NodeMissing) and "the agent of node 0 is gone" in found[1].problem


def test_torchrun_is_told_where_this_node_stands():
    asked = together(2, lambda agents: agents.torchrun(4, 1234))
    for rank in (0, 1):
        assert {
            "--nnodes=2",
            f"--node-rank={rank}",
            "--master-addr=127.0.0.1",
            "--master-port=1234",
            "--nproc-per-node=2",
            "--local-addr=127.0.0.1",
        } < set(asked[rank])


def ended(code=0, hung=False, data=None, died=(), tail="", **outcome):
    whole = Outcome(code, 10.0, hung, **outcome)
    return json.loads(json.dumps(asdict(Ended(whole, data or {"passes": []}, list(died), tail, "/log"))))


def test_a_launch_on_all_nodes_has_the_report_of_node_0_and_the_deaths_of_all():
    died = {"rank": 1, "phase": "gate 4", "error": "boom"}
    found = Ended.everywhere([ended(data={"passes": [1]}), ended(code=1, died=[died], tail="the end")])
    assert (found.outcome.code, found.outcome.hung, found.data, found.died) == (1, False, {"passes": [1]}, [died])
    assert found.tail == "node 1:\nthe end" and found.log == "node 0: /log, node 1: /log"


def test_the_death_that_the_others_died_of_comes_first():
    bereft = {
        "rank": 0,
        "phase": "gate 4",
        "error": "RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.2]:13963",
    }
    cause = {"rank": 1, "phase": "engine", "error": "no memory"}
    found = Ended.everywhere([ended(code=1, died=[bereft]), ended(code=1, died=[cause])])
    assert found.died == [cause, bereft]


def test_a_hang_on_one_node_is_a_hang_with_the_stacks_of_all():
    late = ended(code=-9, hung=True, phase="engine", silence=301.0, limit=300.0, stacks={1: "stack of 1"})
    found = Ended.everywhere([ended(code=1, stacks={0: "stack of 0"}), late])
    assert (found.outcome.hung, found.outcome.phase) == (True, "engine")
    assert found.outcome.stacks == {0: "stack of 0", 1: "stack of 1"}
