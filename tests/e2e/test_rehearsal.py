"""The whole smoke run on the CPU: torchrun, FSDP over gloo, the real suite, watchdog and judge, inside a real environment.

Only vLLM and the GPU are stood in for (tests/rehearsal.py). Needs a built environment: envs/vllm073, or the prefix that
VERLOCK_REHEARSAL names.
"""

import json
import os
from pathlib import Path

import pytest

from verlock import launch, project, recipe
from verlock.smoke import gates, sabotage

pytestmark = pytest.mark.e2e

PREFIX = Path(os.environ.get("VERLOCK_REHEARSAL") or project.envs_dir() / "vllm073")
SIZES = {
    "prompts": 4,
    "length": 32,
    "new": 8,
    "cached_prompts": 2,
    "cached_length": 128,
    "cached_new": 8,
    "sampled_prompts": 256,
}


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    if not (PREFIX / "verlock.json").exists():
        pytest.skip(f"no environment at {PREFIX}: `nox -s env-vllm073` makes it")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    loaded = recipe.load(json.loads((PREFIX / "verlock.json").read_text())["variant"])
    monkeypatch.setattr(launch, "HANG_LIMIT", 4.0)

    def run(ranks, mode, tp=1, sabotaged="", gpus=None, **more):
        machine = launch.Machine("none", gpus or ranks, 0, "580.159.04")
        part = launch.Part(mode, ranks, tp)
        config = launch.configuration(loaded, loaded.default_python, machine, part, tmp_path / "run")
        if sabotaged:
            config = launch.sabotaged(config, sabotaged)
        # compiled modules need the GPU's driver library
        config |= {
            "device": "cpu",
            "engine": "rehearsal:RehearsalEngine",
            "imports": ["torch", "verl"],
            "sizes": SIZES,
            **more,
        }
        environment = launch.surroundings(loaded, PREFIX)
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent.parent)
        return launch.launch(PREFIX, environment, config)

    return run


def red(each):
    return [gate.id for gate in each.red]


def test_all_sabotages_in_one_process_turn_exactly_their_gates_red(rehearse):
    passes = rehearse(1, "graphs", sabotaged="all")
    inside = {mode: entry for mode, entry in sabotage.MODES.items() if not entry.verl}
    assert [each.sabotage for each in passes] == ["", *inside]
    found = {each.sabotage: red(each) for each in passes}
    assert found == {"": [], **{mode: [entry.gate] for mode, entry in inside.items()}}
    assert "time.sleep" in passes[-1].details["stacks"][0] or "__main__.py" in passes[-1].details["stacks"][0]


@pytest.mark.parametrize("tp", [1, 2])
def test_two_ranks_that_share_a_gpu_are_green_in_both_layouts(rehearse, tp):
    (only,) = rehearse(2, "graphs", tp=tp, gpus=1)
    assert red(only) == [], [gate.sentence for gate in only.red]
    assert {gate.verdict for gate in only.gates} == {gates.PASS}
    assert f"2 ranks sharing 1 GPU, TP={tp} DP={2 // tp}" in next(gate.value for gate in only.gates if gate.id == "10")


@pytest.mark.parametrize(("tp", "mode"), [(2, "wrong-rank"), (1, "hang")])
def test_two_ranks_see_what_one_sees(rehearse, tp, mode):
    (only,) = rehearse(2, "eager", tp=tp, sabotaged=mode)
    assert only.problem() == ""
    if mode == "hang":
        assert set(only.details["stacks"]) == {0, 1}


def test_an_engine_that_refuses_two_ranks_is_gate_10(rehearse):
    (only,) = rehearse(2, "eager", llm={"fail": "world_size (2) is not equal to tensor_model_parallel_size (1)"})
    assert red(only) == ["10"]
    assert "world_size (2) is not equal" in only.problem()
