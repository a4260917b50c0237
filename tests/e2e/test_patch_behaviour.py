"""That the patches do what they are for, without a GPU: the patched file of an environment against the released one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from functools import cache
from pathlib import Path

import pytest

from verlock.sources import git_apply, patches
from verlock.system import files
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import choose, names

pytestmark = pytest.mark.e2e

RUNNER = Path(__file__).with_name("patch_behaviour.py")
FILES = {
    "groups": "vllm/distributed/parallel_state.py",
    "local_rank": "vllm/executor/uniproc_executor.py",
    "empty_cache": "vllm/model_executor/model_loader/weight_utils.py",
    "stream": "vllm/utils.py",
    "executor": "vllm/engine/llm_engine.py",
}
CASES = {
    variant.name: [case for case, path in FILES.items() if any(path in file.paths for file in patches.read(variant))]
    for variant in (choose(name).recipe for name in names())
    if variant.patch
}
REFUSALS = {
    "V0": "world_size (2) is not equal to tensor_model_parallel_size (1) x pipeline_model_parallel_size (1)",
    "V1": "shape '[1, 1, 1]' is invalid for input of size 2",
}


@cache
def site_of(variant: str) -> Path:
    """site-packages of the built environment; skips where there is none."""
    chosen = choose(variant)
    if not (chosen.prefix / receipt.NAME).exists():
        pytest.skip(f"{chosen.prefix} is not built (nox -s env-{variant}; VERLOCK_ENVS says where environments are)")
    return chosen.site


def released(variant: str, folder: Path) -> Path:
    """The files as released: ours with the patches taken back, proven by the lock's hashes."""
    chosen = choose(variant)
    stage = git_apply.Stage(site_of(variant), list(FILES.values()), folder)
    for file in reversed(patches.read(chosen.recipe)):
        assert stage.run(file.data, "--reverse") is None
    for entry in lockfiles.sources(chosen.locks)["patches"]:
        for touched in entry["touches"]:
            assert files.sha256_if_there(folder / touched["path"]) == touched["before"]
    return folder


def run(variant: str, folder: Path) -> list[dict]:
    """What each of two ranks reports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    python = choose(variant).interpreter
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    kept |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    kept |= {"CUDA_VISIBLE_DEVICES": "", "VLLM_USE_V1": "0", "VLLM_CONFIGURE_LOGGING": "0", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [python, "-B", RUNNER, folder, *CASES[variant]],
            env={**kept, "RANK": rank, "LOCAL_RANK": rank},
            cwd="/",
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in ("0", "1")
    ]
    results = []
    for process in ranks:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err[-3000:]
        results.append(json.loads(out.strip().splitlines()[-1]))
    return results


def does_its_work(case: str, results: list[dict]) -> None:
    """The property a patch is for; it must fail on the released text."""
    got = [result[case] for result in results]
    wanted = {
        "groups": [{"tp": [rank], "pp": [rank]} for rank in (0, 1)],
        "local_rank": [{"local_rank": 0}] * 2,
        "empty_cache": [{"names": ["weight"], "calls": 0}] * 2,
        "stream": [{"unset": "mine", "set": "chosen"}] * 2,
        "executor": [{"executor": "ExecutorWithExternalLauncher", "rank": rank, "local_rank": rank} for rank in (0, 1)],
    }
    assert got == wanted[case]


@pytest.mark.parametrize("variant", CASES)
def test_patched(variant):
    chosen = choose(variant)
    states = patches.states(chosen.recipe, site_of(variant), lockfiles.sources(chosen.locks))
    assert {state.outcome for state in states} == {patches.Outcome.APPLIED}
    results = run(variant, site_of(variant))
    for case in CASES[variant]:
        does_its_work(case, results)


@pytest.mark.parametrize("variant", CASES)
def test_released(variant, tmp_path):
    """The negative control: the same runner, the same environment, the released text."""
    results = run(variant, released(variant, tmp_path))
    for case in CASES[variant]:
        with pytest.raises(AssertionError):
            does_its_work(case, results)
    refusal = REFUSALS[choose(variant).recipe.vllm.engine]
    usual = {
        "local_rank": {"local_rank": 3},
        "empty_cache": {"names": ["weight"], "calls": 1},
        "stream": {"unset": "theirs", "set": "chosen"},
        "executor": {"executor": "UniProcExecutor", "rank": 0, "local_rank": 0},
    }
    for result in results:
        if "groups" in result:
            assert refusal in result.pop("groups")["error"]
        assert result == {case: usual[case] for case in result}
