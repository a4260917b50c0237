"""A script for Slurm that trains on several nodes inside an environment: one task a node, torchrun or Ray in it.

The script is there to be read, and completed with an account and a partition. It needs nothing on the nodes but the folder of the
environment at its path: it starts everything through `bin/verlock-run`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from verlock.env import launcher
from verlock.errors import RunnerMissing
from verlock.variant import receipt
from verlock.variant.chosen import Chosen


@dataclass(frozen=True)
class Job:
    """What a job asks for: nodes, GPUs of each (and as many ranks), its folder, and Ray in the place of torchrun."""

    nodes: int
    gpus: int
    folder: str
    ray: bool = False


_HEAD = """\
#!/bin/bash
# {variant}, nodes: {nodes}, GPUs of each: {gpus}. Written by `verlock run {variant} --sbatch` for the environment
# {prefix}, which all nodes must have at this path.
# Read it, add what your cluster asks for (#SBATCH --account=..., --partition=..., --time=...), and submit it with `sbatch FILE`.
# Where nodes have several networks, say which one: `export NCCL_SOCKET_IFNAME=... GLOO_SOCKET_IFNAME=...` above the first srun.
#SBATCH --job-name={variant}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --chdir={folder}
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
set -euo pipefail

export VERLOCK_PREFIX={quoted_prefix}
run=$VERLOCK_PREFIX/{runner}

# A requeued job has its number again, but not its ports, in case an old process still holds one. Below 30000: above, the kernel
# gives ports away by itself.
restarts=${{SLURM_RESTART_COUNT:-0}}
port=$((20000 + (SLURM_JOB_ID * 16 + restarts * 2) % 10000))
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol show node --oneliner "$first" | sed -n 's/.* NodeAddr=\\([^ ]*\\) .*/\\1/p')
echo "verlock: job $SLURM_JOB_ID, start $((restarts + 1)), nodes: {nodes}, the first one $first at $address:$port"

# Every node first: does it have this environment, made from this lock, and does its Python start? All are asked to the end,
# so that all that cannot are named.
srun --kill-on-bad-exit=0 sh -c '
    if timeout 120 "$VERLOCK_PREFIX/{runner}" python -c ""; then
        grep -q "\\"digest\\": \\"{digest}\\"" "$VERLOCK_PREFIX/{receipt}" && exit
        echo "  it was made from another lock than this script" >&2
    fi
    echo "verlock: node $SLURMD_NODENAME cannot use $VERLOCK_PREFIX: nothing was started" >&2
    exit 1
'

"""

_TORCHRUN = """\
# One torchrun a node, and on each as many ranks as GPUs. When one node fails all are ended, the others at once.
srun --kill-on-bad-exit=1 --cpu-bind=none sh -c '
    exec "$VERLOCK_PREFIX/{runner}" torchrun --no-python --nnodes={nodes} --nproc-per-node={gpus} \\
        --node-rank="$SLURM_NODEID" --master-addr="${{0%:*}}" --master-port="${{0##*:}}" "$@"
' "$address:$port" {command}
"""

_RAY = """\
# A Ray of this job's own. No other is joined: it has a folder and ports of its own, and what looks for "the" Ray of a node does
# not find it. None is stopped: each node's part ends with its step. Its logs stay in /tmp/verlock-ray-JOB on each node.
on_first=(--nodes=1 --ntasks=1 --nodelist="$first" --cpu-bind=none)
start=("$run" ray start --num-gpus={gpus} {node} --block)
inside=("$run" env RAY_ADDRESS="$address:$port")
# Waits until that many nodes are there, each with this Ray and this Python; which one is not is said, and the job ends.
joined={joined}

srun "${{on_first[@]}}" "${{start[@]}}" --head --node-ip-address="$address" --port=$port --ray-client-server-port=$((port + 1)) \\
    --temp-dir="/tmp/verlock-ray-$SLURM_JOB_ID" {head} &
steps=$!
trap 'kill $steps 2>/dev/null || true' EXIT
srun --overlap "${{on_first[@]}}" "${{inside[@]}}" python -c "$joined" 1 {patience}

others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --relative=1 --nodes=$others --ntasks=$others --cpu-bind=none "${{start[@]}}" --address="$address:$port" &
    steps="$steps $!"
    srun --overlap "${{on_first[@]}}" "${{inside[@]}}" python -c "$joined" {nodes} {patience}
fi

srun --overlap "${{on_first[@]}}" "${{inside[@]}}" {command}
"""


def script(chosen: Chosen, job: Job, command: Sequence[str]) -> str:
    """The script, to be submitted with `sbatch`.

    Args:
        chosen: which environment; it must be finished, and at the same path on all nodes.
        job: what to ask Slurm for.
        command: what each rank runs (with Ray: what runs once, on the first node), in the environment.

    Raises:
        NotSealed: there is no finished environment. RunnerMissing: it is one of before there was `bin/verlock-run`.
    """
    sealed = receipt.read(chosen.prefix)
    if launcher.NAME not in sealed["files"]:
        raise RunnerMissing(
            f"{chosen.prefix} has no {launcher.NAME}: an older verlock made it",
            f"make it again, which takes seconds: `rm -r {chosen.prefix}`, then `nox -s env-{chosen.name}`",
        )
    words = {
        "variant": chosen.name,
        "prefix": str(chosen.prefix),
        "quoted_prefix": shlex.quote(str(chosen.prefix)),
        "nodes": job.nodes,
        "gpus": job.gpus,
        "folder": shlex.quote(job.folder),
        "runner": launcher.NAME,
        "receipt": receipt.NAME,
        "digest": sealed["digest"],
    }
    if not job.ray:
        # torchrun takes each argument for a template, in which $$ is one $
        escaped = [word if not number else word.replace("$", "$$") for number, word in enumerate(command)]
        return (_HEAD + _TORCHRUN).format(**words, command=shlex.join(escaped))
    from verlock.shipping import ray

    options = {"head": " ".join(ray.HEAD), "node": " ".join(ray.NODE)}
    asked = {"joined": shlex.quote(ray.JOINED), "patience": ray.PATIENCE, "command": shlex.join(command)}
    return (_HEAD + _RAY).format(**words, **options, **asked)
