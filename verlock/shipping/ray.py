"""Ray: what is run inside an environment to know, before training, that every node of a cluster can work with it."""

from __future__ import annotations

from verlock.shipping import launch
from verlock.variant.chosen import Chosen

PATIENCE = (
    300  # seconds until all nodes are there, and each has started a worker: imports from a slow file system take long
)

# Options of `ray start` for a Ray that does not meet another one on the same machine: no ports that are always the same.
HEAD = ("--include-dashboard=false",)  # and --ray-client-server-port, which has no "any"
NODE = ("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats")

# Runs with the environment's Python and Ray, joined to RAY_ADDRESS. Arguments: how many nodes there must be (0: as many as there
# are), seconds, and py_executable for the workers, if any. Ends with 1 and a sentence for each node that cannot be used.
JOINED = """\
import os, socket, sys, time
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

def own():
    return {"Ray": ray.__version__, "Python": ".".join(map(str, sys.version_info[:3])), "prefix": os.path.realpath(sys.prefix)}

def stop(said):
    print("\\n".join(f"verlock: {line}" for line in said), file=sys.stderr, flush=True)
    os._exit(1)  # Ray's own end waits for a cluster that may be gone

wanted, patience = int(sys.argv[1]), float(sys.argv[2])
address, until = os.environ["RAY_ADDRESS"], time.monotonic() + patience
workers = {"py_executable": sys.argv[3]} if len(sys.argv) > 3 else {}
host, _, port = address.rpartition(":")
answers = until if wanted else min(until, time.monotonic() + 10)  # one that runs already answers at once
while True:  # Ray itself may die of a signal when it asks twice where nobody listens
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        break
    except OSError as error:
        if time.monotonic() > answers:
            stop([f"no Ray answers at {address}: {error}", "name the address that `ray start --head` printed"])
        time.sleep(1)
while True:
    try:
        ray.init(address=address, runtime_env=workers, log_to_driver=False, logging_level="ERROR")
        break
    except ConnectionError as error:
        if time.monotonic() > until:
            stop([f"no Ray answers at {address} within {patience:.0f} s: {error}"])
        time.sleep(1)
    except RuntimeError as error:
        if "ersion mismatch" not in str(error):
            raise
        stop([" ".join(str(error).split()), "start Ray on all nodes from this environment: `verlock-run ray start ...`"])

alive = []
while True:
    alive = [node for node in ray.nodes() if node["Alive"]]
    if alive and len(alive) >= wanted or time.monotonic() > until:
        break
    time.sleep(1)
names = {node["NodeID"]: f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive}
if len(alive) < wanted:
    stop([f"{len(alive)} of {wanted} nodes joined within {patience:.0f} s: {', '.join(names.values())}"])

seen = {each: ray.remote(own).options(num_cpus=0, scheduling_strategy=On(each, soft=False)).remote() for each in names}
wrong = []
for each, asked in seen.items():
    try:
        found = ray.get(asked, timeout=max(1.0, until - time.monotonic()))
    except Exception as error:
        why = "no answer" if "timed out" in str(error).lower() else str(error).strip().splitlines()[-1]
        wrong.append(f"node {names[each]} starts no worker in {sys.prefix}: {why}")
        continue
    here = own()
    if differs := [f"{what} is {found[what]}, here {here[what]}" for what in here if found[what] != here[what]]:
        wrong.append(f"node {names[each]} works with another environment: {'; '.join(differs)}")
if wrong:
    stop([*wrong, "nothing was started: have the environment at the same path on every node, from one lock"])
print(f"verlock: {len(names)} nodes with Ray {ray.__version__} in {sys.prefix}: {', '.join(names.values())}", flush=True)
os._exit(0)
"""


def check(chosen: Chosen, address: str) -> int:
    """Ask a Ray that runs already whether each of its nodes starts workers in the environment; says which does not.

    Args:
        chosen: the environment, which every node must have at its path.
        address: the Ray's, as host:port.

    Returns:
        126 or 127 where it cannot be asked. Else it takes this process's place, and ends with 1 where something is wrong.

    Raises:
        NotSealed: there is no finished environment here.
    """
    arguments = ["0", str(PATIENCE), launch.py_executable(chosen)]
    return launch.run(chosen, ["env", f"RAY_ADDRESS={address}", "python", "-c", JOINED, *arguments])
