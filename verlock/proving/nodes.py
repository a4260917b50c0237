"""The agents of a smoke run that spans machines, one on each node.

Node 0 listens, and every other agent keeps one connection to it for the whole run: so all of them learn before anything is
started whether they mean the same run, and at the end of each launch how it ended on the other nodes. A line of JSON goes each
way. torchrun is given a port of its own.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verlock.errors import NodeMissing, NodesDiffer
from verlock.smoke import watchdog

HELLO = 10.0  # seconds that a connection may take to say what it is: port scanners connect as well
SLACK = 30.0  # seconds that node 0 may take to answer, beyond what it waits for
AGAIN = 0.5  # seconds between two tries to reach node 0
LONGEST = 64 * 2**20  # bytes of a line; a report with the stacks of all ranks has less than one MiB


@dataclass(frozen=True)
class Place:
    """Where this agent stands: node `rank` of `count`. Node 0 listens at `host` and `port`."""

    count: int
    rank: int
    host: str
    port: int

    @property
    def leads(self) -> bool:
        """Is this node 0, which shows the tables and writes the report?"""
        return self.rank == 0


class _Link:
    """A connection to another agent."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = connection.makefile("rb")

    def say(self, data: Any) -> None:
        self._socket.settimeout(SLACK)
        self._socket.sendall(json.dumps(data).encode() + b"\n")

    def hear(self, seconds: float) -> Any:
        """The next line. Raises OSError if the other end is gone or silent, ValueError if it is no agent."""
        self._socket.settimeout(max(seconds, 0.01))
        line = self._lines.readline(LONGEST)
        if not line:
            raise ConnectionResetError("the connection was closed")
        return json.loads(line)

    @property
    def address(self) -> str:
        """This machine's address on the way to the other agent."""
        found = ipaddress.ip_address(self._socket.getsockname()[0].partition("%")[0])
        return str(getattr(found, "ipv4_mapped", None) or found)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Agents:
    """All agents of a run, as one of them sees them; they make the same calls in the same order."""

    def __init__(self, place: Place, same: Mapping[str, str], patience: float = watchdog.FIRST_BEAT) -> None:
        """Meet the others.

        Args:
            place: which node this is.
            same: what must be the same on all nodes, by the name that the user knows it by.
            patience: seconds until all must have come.

        Raises:
            NodeMissing: another node did not come in time, or its agent is gone.
            NodesDiffer: something that must be the same is not; on every node.
        """
        self.place = place
        self._links: list[_Link] = []
        try:
            if place.leads:
                self._receive({**same, "--nnodes": str(place.count)}, patience)
            else:
                self._join({**same, "--nnodes": str(place.count)}, patience)
        except BaseException:
            self.close()
            raise
        self.address = self._links[0].address

    def gather(self, mine: Any, seconds: float) -> list[Any]:
        """What every agent has, in the order of the nodes.

        Args:
            mine: of this node; it must be fit for JSON.
            seconds: how long any other node may take.

        Raises:
            NodeMissing: one is gone, or took longer.
        """
        if not self.place.leads:
            return list(self._ask(mine, seconds)["all"])
        everything = [mine]
        for node, link in enumerate(self._links, start=1):
            try:
                everything.append(link.hear(seconds))
            except (OSError, ValueError) as error:
                self._end(f"the agent of node {node} is gone, or has not answered for {seconds:.0f} s ({error})")
        for link in self._links:
            link.say({"all": everything})
        return everything

    def torchrun(self, ranks: int, port: int) -> list[str]:
        """torchrun's options for this node's share of `ranks`, which meet at `port` of node 0 (see `free_port`)."""
        place = self.place
        return [
            f"--nnodes={place.count}",
            f"--node-rank={place.rank}",
            f"--master-addr={place.host}",
            f"--master-port={port}",
            f"--rdzv-conf=timeout={watchdog.FIRST_BEAT:.0f}",
            f"--local-addr={self.address}",
            f"--nproc-per-node={ranks // place.count}",
        ]

    def close(self) -> None:
        """End all connections."""
        for link in self._links:
            link.close()

    def _receive(self, same: dict[str, str], patience: float) -> None:
        """Node 0: wait for the others, hold them against this node, and tell all of them what was found."""
        place, deadline = self.place, time.monotonic() + patience
        arrived: dict[int, _Link] = {}
        problems: list[str] = []
        with _listening(place) as listener:
            while len(self._links) < place.count - 1:
                listener.settimeout(max(deadline - time.monotonic(), 0.01))
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    break
                link = _Link(connection)
                try:
                    hello = link.hear(HELLO)
                    node, theirs = int(hello["node"]), dict(hello["same"])
                except (OSError, ValueError, KeyError, TypeError):  # not one of ours
                    link.close()
                    continue
                self._links.append(link)
                if node in (0, *arrived):
                    problems.append(f"two agents were started with --node-rank {node}")
                arrived[node] = link
                problems += [
                    f"{key} is {theirs.get(key, 'not given')} on node {node}, and {value} on node 0"
                    for key, value in same.items()
                    if theirs.get(key) != value
                ]
        missing = [str(node) for node in range(1, place.count) if node not in arrived]
        if missing and not problems:
            which = f"node{'s' if missing[1:] else ''} {', '.join(missing)}"
            self._end(f"{which} did not come to {place.host}:{place.port} within {patience:.0f} s")
        for link in self._links:
            link.say({"problems": problems})
        _judge(problems)
        self._links = [arrived[node] for node in sorted(arrived)]

    def _join(self, same: dict[str, str], patience: float) -> None:
        """Another node: reach node 0, say what this one is about to run, and hear what was found."""
        place, deadline = self.place, time.monotonic() + patience
        while True:
            try:
                link = _Link(socket.create_connection((place.host, place.port), timeout=HELLO))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise NodeMissing(
                        f"nobody answers at {place.host}:{place.port} after {patience:.0f} s: {error}", _REMEDY
                    ) from None
                time.sleep(AGAIN)
        self._links.append(link)
        _judge(self._ask({"node": place.rank, "same": same}, patience)["problems"])

    def _ask(self, mine: Any, seconds: float) -> Any:
        """Tell node 0 something, and hear its answer."""
        try:
            self._links[0].say(mine)
            answer = self._links[0].hear(seconds + SLACK)
        except (OSError, ValueError) as error:
            raise NodeMissing(f"the agent of node 0 is gone, or does not answer ({error})", _REMEDY) from None
        if "missing" in answer:
            raise NodeMissing(answer["missing"], _REMEDY)
        return answer

    def _end(self, problem: str) -> None:
        """Tell those who are there that another one is not, and end."""
        for link in self._links:
            try:
                link.say({"missing": problem})
            except OSError:
                continue
        raise NodeMissing(problem, _REMEDY)


_REMEDY = "start one agent on every node, with the same --rendezvous and a --node-rank of its own; see the other agents' output"


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


def _judge(problems: list[str]) -> None:
    if problems:
        raise NodesDiffer("\n  ".join(problems), "start the agents with the same options, in the same environment")


def _listening(place: Place) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    try:
        if both:
            return socket.create_server(("", place.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", place.port))
    except OSError as error:
        raise NodeMissing(
            f"node 0 cannot listen at port {place.port} of this machine: {error}", "name a free port in --rendezvous"
        ) from None
