"""The whole smoke run on the CPU: torchrun, FSDP over gloo, the real suite, watchdog and judge, inside a real environment.

Only vLLM and the GPU are stood in for (tests/rehearsal.py). Needs a built environment: envs/vllm073, or the prefix that
VERLOCK_REHEARSAL names.
"""

import os
import subprocess
from pathlib import Path

import pytest
import toy

from verlock.errors import ModelRefused
from verlock.proving import launch_config, own_model, smoke_launch
from verlock.proving.passes import Part
from verlock.smoke import gates, sabotage
from verlock.system.gpu import Gpus
from verlock.variant import receipt
from verlock.variant.chosen import choose

pytestmark = pytest.mark.e2e


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    chosen = choose("vllm073")
    if given := os.environ.get("VERLOCK_REHEARSAL"):
        monkeypatch.setenv("VERLOCK_ENVS", str(Path(given).absolute().parent))
        sealed = receipt.read(Path(given))
        chosen = choose(sealed["variant"], sealed["python"])
        assert chosen.prefix.resolve() == Path(given).resolve(), "VERLOCK_REHEARSAL is not where that variant belongs"
    if not (chosen.prefix / receipt.NAME).exists():
        pytest.skip(f"no environment at {chosen.prefix}: `nox -s env-{chosen.name}` makes it")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launch_config, "HANG_LIMIT", 4.0)

    def run(ranks, mode, tp=1, sabotaged="", gpus=None, model=None, **more):
        machine = Gpus("none", gpus or ranks, 0, "580.159.04")
        config = launch_config.configuration(chosen, machine, Part(mode, ranks, tp), tmp_path / "run")
        if sabotaged:
            config = launch_config.sabotaged(config, sabotaged)
        if model:
            config = own_model.launched_with(config, own_model.at(model))
        # compiled modules need the GPU's driver library
        config |= {
            "device": "cpu",
            "engine": "rehearsal:RehearsalEngine",
            "imports": ["torch", "verl"],
            "sizes": toy.SIZES,
            **more,
        }
        environment = launch_config.variables(chosen)
        environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent.parent)
        return smoke_launch.gates_run(chosen, environment, config)

    run.chosen = chosen
    return run


def red(each):
    return [gate.id for gate in each.red]


@pytest.mark.slow("14 passes through the gates on the CPU")
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


@pytest.mark.slow("torch and verl are imported in two ranks, twice")
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


# with a model of the user's own ---------------------------------------------------------------------------

SAVE = """
import sys, torch, transformers
torch.manual_seed(3)
common = dict(vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4)
if sys.argv[2] == "Llama":
    config = transformers.LlamaConfig(
        **common, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True, initializer_range=0.06
    )
    made = transformers.LlamaForCausalLM(config)
elif sys.argv[2] == "Bert":
    made = transformers.BertModel(transformers.BertConfig(**common))
else:
    made = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**common))
made.to(torch.bfloat16).save_pretrained(sys.argv[1])
"""


@pytest.fixture
def saved(rehearse, tmp_path):
    """A function that saves a small model of some architecture, without a tokenizer, as a user has it on disk."""

    def save(kind):
        folder = tmp_path / f"tiny-{kind}"
        environment = launch_config.variables(rehearse.chosen)
        command = [rehearse.chosen.interpreter, "-c", SAVE, folder, kind]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return folder

    return save


@pytest.mark.parametrize(("ranks", "tp"), [(1, 1), (2, 2)])
def test_a_llama_of_the_users_own_goes_through_the_gates(rehearse, saved, ranks, tp):
    folder = saved("Llama")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (only,) = rehearse(ranks, "graphs", tp=tp, model=folder)
    assert red(only) == [], [gate.sentence for gate in only.red]
    found = {gate.id: gate for gate in only.gates}
    assert set(found) == {*gates.MEASURED_INSIDE, "watchdog"}
    assert "ids < 1000" in found["2"].bound
    assert "reported, no bound" in found["6"].bound and "same bits" in found["6"].value
    assert "weights not compared" in found["10"].value
    assert only.label.startswith("graphs, tiny-Llama")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "the user's model was touched"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("GPTNeoX", "this environment's vLLM does not serve GPTNeoXForCausalLM, the architecture of .*tiny-GPTNeoX"),
        ("Bert", "has no causal language model for BertModel, the architecture of .*tiny-Bert"),
    ],
)
def test_a_model_that_the_environment_cannot_run_is_refused_with_a_sentence(rehearse, saved, kind, says):
    with pytest.raises(ModelRefused, match=says) as caught:
        rehearse(1, "eager", model=saved(kind))
    assert caught.value.remedy


def test_weights_of_the_users_own_model_that_do_not_survive_sleep_are_gate_6(rehearse, saved):
    (only,) = rehearse(1, "eager", model=saved("Llama"), llm={"loses_bits": True})
    assert red(only) == ["6"]
    assert "(model.embed_tokens.weight ...) are no longer what they were before the engine slept" in only.problem()
