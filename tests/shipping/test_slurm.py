"""The script for Slurm, without Slurm: its options, its quoting, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
import toy

from verlock import cli
from verlock.env import launcher
from verlock.shipping import ray, slurm
from verlock.variant import receipt
from verlock.variant.chosen import choose


@pytest.fixture
def sealed(clone):
    """Make a finished environment as far as the script looks; with or without bin/verlock-run."""

    def make(files=(launcher.NAME,)):
        prefix = choose("vllm073").prefix
        (prefix / "bin").mkdir(parents=True, exist_ok=True)
        (prefix / "bin/python").unlink(missing_ok=True)
        (prefix / "bin/python").symlink_to(sys.executable)
        launcher.write(prefix, {"VLLM_USE_V1": "0"})
        content = {**toy.SEALED, "schema": receipt.SCHEMA, "prefix": str(prefix), "digest": "d" * 64}
        receipt.write(prefix, {**content, "files": dict.fromkeys(files, "")})
        return prefix

    return make


def printed(capsys, *line):
    assert cli.main(["run", "vllm073", "--sbatch", *line]) == 0
    return capsys.readouterr().out


def directives(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, re.MULTILINE))


def test_what_is_asked_for(sealed, capsys):
    sealed()
    script = printed(
        capsys, "--nodes", "2", "--gpus-per-node", "4", "--chdir", "/data/my run", "--", "python", "train.py", "x={y}"
    )
    asked = directives(script)
    assert asked["nodes"] == "2" and asked["gpus-per-node"] == "4" and asked["ntasks-per-node"] == "1"
    assert asked["chdir"] == "'/data/my run'" and "requeue" in asked
    assert "--nnodes=2 --nproc-per-node=4" in script and script.rstrip().endswith("python train.py 'x={y}'")
    assert "d" * 64 in script


# Slurm's commands as far as the script uses them: srun starts each node's task here, one after the other
SRUN = """#!/bin/bash
echo "srun $*" | head -n 1 >> "$LOG"
nodes=2
while [[ $1 == --* ]]; do [[ $1 == --nodes=1 ]] && nodes=1; shift; done
for ((id = 0; id < nodes; id++)); do SLURM_NODEID=$id SLURMD_NODENAME=n$id "$@" || exit; done
"""
SCONTROL = """#!/bin/sh
if [ "$2" = hostnames ]; then printf 'n0\\nn1\\n'; else echo "NodeName=$4 Arch=x86 NodeAddr=10.0.0.7 NodeHostName=h"; fi
"""


@pytest.fixture
def play(tmp_path):
    """Run a script with stand-ins for Slurm's commands, and for torchrun one that shows its arguments."""

    def do(script, prefix):
        folder = tmp_path / "slurm"
        folder.mkdir(exist_ok=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (prefix / "bin/torchrun").write_text('#!/bin/sh\necho torchrun; printf "[%s]" "$@"; echo\n')
        (prefix / "bin/torchrun").chmod(0o755)
        variables = {
            "PATH": f"{folder}:/usr/bin:/bin",
            "LOG": str(tmp_path / "log"),
            "SLURM_JOB_ID": "1234",
            "SLURM_JOB_NODELIST": "n[0-1]",
        }
        return subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, check=False)

    return do


def test_each_node_is_checked_and_then_starts_one_torchrun_with_its_place(sealed, capsys, play):
    prefix = sealed()
    done = play(
        printed(capsys, "--nodes", "2", "--gpus-per-node", "4", "--", "python", 'it\'s a "$HOME".py', "$$"), prefix
    )
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("[")]
    port = 20000 + 1234 * 16 % 10000
    for rank, line in enumerate(shown):
        assert line == (f"[--no-python][--nnodes=2][--nproc-per-node=4][--node-rank={rank}][--master-addr=10.0.0.7]"
                        f"[--master-port={port}][python][it's a \"$$HOME\".py][$$$$]")  # fmt: skip
    assert len(shown) == 2


def test_a_node_with_another_environment_is_named_and_nothing_starts(sealed, capsys, play):
    prefix = sealed()
    script = printed(capsys, "--nodes", "2", "--", "true")
    sealed_now = json.loads((prefix / receipt.NAME).read_text())
    (prefix / receipt.NAME).write_text(json.dumps({**sealed_now, "digest": "e" * 64}, indent=1))
    done = play(script, prefix)
    assert done.returncode == 1 and "torchrun" not in done.stdout
    assert "another lock" in done.stderr and f"node n0 cannot use {prefix}" in done.stderr
    shutil.rmtree(prefix / "bin")
    (prefix / "bin").mkdir()
    done = play(script, prefix)
    assert done.returncode == 1 and "node n0 cannot use" in done.stderr


def test_an_environment_of_an_older_verlock_says_how_it_gets_what_is_needed(sealed, capsys):
    prefix = sealed(files=())
    assert cli.main(["run", "vllm073", "--sbatch", "--", "true"]) == 66
    assert f"rm -r {prefix}" in capsys.readouterr().err


def test_no_environment(clone, capsys):
    assert cli.main(["run", "vllm073", "--sbatch", "--", "true"]) == 40


@pytest.mark.parametrize("more", [[], ["--ray"]])
def test_bash_can_read_it(sealed, capsys, more):
    sealed()
    script = printed(capsys, *more, "--", "python", "it's.py")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize("line", [["--nodes", "0", "true"], ["--gpus-per-node", "x", "true"], []])
def test_wrong_lines(sealed, line):
    sealed()
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "vllm073", "--sbatch", *line])
    assert caught.value.code == 2


def test_where_no_ray_listens_ray_is_not_asked(tmp_path):
    """Ray 2.40 dies of a segmentation fault when it is asked a second time."""
    (tmp_path / "ray/util").mkdir(parents=True)
    (tmp_path / "ray/__init__.py").write_text("def init(**_):\n    raise AssertionError('asked')\n")
    (tmp_path / "ray/util/__init__.py").touch()
    (tmp_path / "ray/util/scheduling_strategies.py").write_text("NodeAffinitySchedulingStrategy = None\n")
    with socket.socket() as free:  # bound, but nobody listens there
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "RAY_ADDRESS": address}
        line = [sys.executable, "-c", ray.JOINED, "0", "0.1"]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1 and f"verlock: no Ray answers at {address}: " in done.stderr
        free.listen()
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False, timeout=60)
        assert "AssertionError: asked" in done.stderr


def test_an_address_of_ray_without_a_port_is_refused(sealed, capsys):
    sealed()
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "vllm073", "--ray-check", "node0"])
    assert caught.value.code == 2 and "it must be HOST:PORT" in capsys.readouterr().err


def test_the_code_for_ray_is_python(sealed):
    compile(ray.JOINED, "joined", "exec")
    assert "'" not in slurm.shlex.quote("x") and ray.PATIENCE > 0
