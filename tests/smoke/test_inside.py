"""The parts of the smoke run that need no GPU and no torch: overlay, report, verl's overrides and what it prints."""

import dataclasses
import math
import os
import re
import sys
from pathlib import Path

import pytest

from verlock.smoke import gates, grpo, model, overlay, own_model, report, rollout


def package(tmp_path):
    root = tmp_path / "site" / "engine"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "__init__.py").write_text("from engine.deep.er import value\n")
    (root / "other.py").write_text("")
    (root / "deep" / "__init__.py").write_text("")
    (root / "deep" / "same.py").write_text("")
    (root / "deep" / "er" / "__init__.py").write_text("value = 'installed'\n")
    return root


def test_an_overlay_replaces_one_file_and_links_the_rest(tmp_path, monkeypatch):
    root = package(tmp_path)
    made = overlay.make(root, {"deep/er/__init__.py": "value = 'replaced'\n"}, tmp_path / "over")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.syspath_prepend(str(tmp_path / "over"))
    import engine

    try:
        assert engine.value == "replaced"
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "engine"]:
            del sys.modules[name]
    assert (root / "deep" / "er" / "__init__.py").read_text() == "value = 'installed'\n"
    assert (made / "other.py").is_symlink()
    assert (made / "deep" / "same.py").is_symlink()
    assert not (made / "deep" / "er" / "__init__.py").is_symlink()


def test_an_overlay_of_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        overlay.make(package(tmp_path), {"deep/gone.py": ""}, tmp_path / "over")
    assert not (tmp_path / "over").exists()


def test_what_verl_prints_becomes_metrics():
    printed = (
        "(TaskRunner pid=7) step:0 - val:1.000\n"
        "\x1b[36m(TaskRunner pid=7)\x1b[0m step:1 - training/global_step:1.000 - actor/kl_loss:nan - timing_s/gen:1.650\n"
        "(WorkerDict pid=8) kwargs: {'n': 1}\n"
    )
    found = grpo.metrics(printed)
    assert found["timing_s/gen"] == 1.65
    assert math.isnan(found["actor/kl_loss"])
    assert "val" not in found
    assert grpo.metrics("nothing of the kind") == {}
    assert grpo.metrics("step:1 - critic/score:np.float64(0.5) - perf/n:np.int64(3)") == {
        "critic/score": 0.5,
        "perf/n": 3,
    }


STEP = {
    "folder": "/f",
    "model": "/m",
    "memory_gib": 80.0,
    "flags": ["actor_rollout_ref.rollout.enforce_eager=False"],
}


OLD, NEW = grpo.Verl(Path("/v")), grpo.Verl(Path("/v"), serves=True, reward="reward.custom_reward_function")


@pytest.mark.parametrize("verl", [OLD, NEW])
def test_the_recipes_flags_come_last(verl):
    assert grpo.overrides(STEP, True, verl)[-1:] == STEP["flags"]


@pytest.mark.parametrize("verl", [OLD, NEW])
def test_padding_is_removed_only_with_the_real_flash_attn(verl):
    assert "actor_rollout_ref.model.use_remove_padding=False" in grpo.overrides(STEP, True, verl)
    assert "actor_rollout_ref.model.use_remove_padding=True" in grpo.overrides(STEP, False, verl)


def test_a_verl_with_a_server_is_asked_for_the_logprobs_and_told_where_the_tokenizer_is():
    asked = grpo.overrides(STEP, True, NEW)
    assert {
        "actor_rollout_ref.rollout.calculate_log_probs=True",
        "actor_rollout_ref.model.tokenizer_path=/m/tokenizer",
    } < set(asked)
    assert "+actor_rollout_ref.model.override_config.attn_implementation=sdpa" in asked
    assert "reward.custom_reward_function.path=/f/reward.py" in asked
    assert not any("tokenizer" in each or "sdpa" in each for each in grpo.overrides(STEP, True, OLD))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({grpo.ROLLOUT: ""}, (False, "custom_reward_function")),
        ({grpo.SENDER: "", "trainer/config/_generated_ppo_trainer.yaml": "custom_reward_function:\n  path: x\n"},
         (True, "custom_reward_function")),
        ({grpo.SENDER: "", "trainer/config/_generated_ppo_trainer.yaml": "reward:\n  custom_reward_function:\n    path: x\n"},
         (True, "reward.custom_reward_function")),
    ],
)  # fmt: skip
def test_which_verl_it_is_is_read_from_its_files(tmp_path, monkeypatch, files, expected):
    for name, text in {"__init__.py": "", **files}.items():
        path = tmp_path / "verl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "verl", raising=False)
    found = grpo.Verl.installed()
    assert (found.package, found.serves, found.reward) == (tmp_path / "verl", *expected)


@pytest.mark.parametrize("sizes", [True, False])
def test_a_server_that_cannot_be_told_sizes_of_graphs_is_told_the_largest(sizes):
    asked = grpo.overrides(STEP, True, dataclasses.replace(NEW, sizes=sizes))
    told = [each for each in asked if "capture_size" in each]
    assert told == (
        ["actor_rollout_ref.rollout.cudagraph_capture_sizes=[8,16,32,64]"]
        if sizes
        else ["+actor_rollout_ref.rollout.engine_kwargs.vllm.max_cudagraph_capture_size=64"]
    )


def test_what_a_server_downloads_whatever_the_model_is_left_out_of_the_overlay(tmp_path):
    server = f"if True:\n    if True:\n        from vllm import get_encoding\n{grpo.VOCABULARY}\nelse:\n    pass\n"
    for name, text in {grpo.SENDER: "", grpo.METRICS: "", grpo.SERVER: server}.items():
        path = tmp_path / "verl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made = grpo.overlaid(dataclasses.replace(NEW, package=tmp_path / "verl"), tmp_path, standin=True, skip_sync=False)
    text = (made / "verl" / grpo.SERVER).read_text()
    assert "get_encoding()" not in text and compile(text, "server", "exec")


@pytest.mark.parametrize(("memory", "share"), [(80.0, 0.038), (24.0, 0.125), (2.0, 0.9)])
def test_the_rollout_engine_takes_as_much_of_a_small_gpu_as_of_a_large_one(memory, share):
    asked = [each for each in grpo.overrides({**STEP, "memory_gib": memory}, True, OLD) if "gpu_memory" in each]
    assert asked == [f"actor_rollout_ref.rollout.gpu_memory_utilization={share}"]


WAITS = """
import sys, time
from pathlib import Path
print("first")
end = time.monotonic() + 30
while "first" not in Path(sys.argv[1]).read_text() and time.monotonic() < end:
    time.sleep(0.01)
print("step:1 - timing_s/gen:2.0", file=sys.stderr)
sys.exit(3 if time.monotonic() < end else 4)
"""


def test_what_verl_says_is_passed_on_as_it_comes(tmp_path, monkeypatch):
    log = tmp_path / "log.txt"
    with log.open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        code, printed = grpo.follow([sys.executable, "-u", "-c", WAITS, str(log)], dict(os.environ), tmp_path)
        monkeypatch.undo()
    assert code == 3, "the first line did not come before the end"
    assert printed.splitlines() == ["first", "step:1 - timing_s/gen:2.0"]
    assert re.search(r"^ +\d+\.\d s  step:1", log.read_text(), re.MULTILINE)


def test_the_model_is_written_once_and_whole(tmp_path, monkeypatch):
    written = []

    def write(folder):
        folder.mkdir()
        written.append(folder)

    monkeypatch.setattr(model, "write", write)
    (tmp_path / "model.new").mkdir()  # of a launch that was ended while it wrote
    model.ensure(tmp_path / "model")
    model.ensure(tmp_path / "model")
    assert len(written) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_seconds_until_each_rollout_are_told():
    assert grpo._since(100.0, {"step": 1, "began": 142.26}) == {"step": 1, "began": 42.3}
    assert grpo._since(100.0, {"step": 0, "error": "KeyError"}) == {"step": 0, "error": "KeyError"}


def test_the_reward_is_the_share_of_even_words():
    scope = {}
    exec(grpo.REWARD, scope)
    assert scope["compute_score"]("verlock", "w2 w3 w4 w6", "even") == 0.75
    assert scope["compute_score"]("verlock", "", "even") == 0.0


def test_prompts_differ_by_label_and_are_the_same_every_time():
    assert model.prompts("a", 2, 8) == model.prompts("a", 2, 8)
    assert model.prompts("a", 2, 8) != model.prompts("b", 2, 8)
    assert all(2 <= token < model.VOCABULARY for prompt in model.prompts("a", 8, 64) for token in prompt)


def test_the_recipes_arguments_win_over_the_suites(tmp_path):
    made = rollout.arguments(tmp_path, tp=2, mode="graphs", sleep_mode=True, extra={"seed": 7})
    assert (made["tensor_parallel_size"], made["enforce_eager"], made["seed"]) == (2, False, 7)
    assert rollout.arguments(tmp_path, tp=1, mode="eager", sleep_mode=True, extra={})["enforce_eager"] is True


def test_a_tokenizer_is_the_models_own_where_it_has_one(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert own_model.tokenizer(tmp_path, tmp_path / "scratch") == tmp_path / "scratch"
    assert own_model.arguments(tmp_path, tmp_path / "scratch")["tokenizer"] == str(tmp_path / "scratch")
    (tmp_path / "vocab.json").write_text("{}")
    own_model.ensure_tokenizer(tmp_path, tmp_path / "scratch")
    assert own_model.arguments(tmp_path, tmp_path / "scratch")["tokenizer"] == str(tmp_path)
    assert not (tmp_path / "scratch").exists()


def test_the_engine_has_room_for_the_largest_batch_of_any_model(tmp_path):
    made = rollout.arguments(
        tmp_path, tp=1, mode="eager", sleep_mode=True, extra=own_model.arguments(tmp_path, tmp_path)
    )
    assert made["num_gpu_blocks_override"] * own_model.BLOCK >= made["max_num_seqs"] * made["max_model_len"]


GREEN = gates.greedy([{"positions": 4, "mutual": 4, "largest_id": 3, "tokenizer": 4}])


def test_a_rank_that_died_in_a_gate_turns_that_gate_red_and_the_rest_unreached():
    found = report.complete([GREEN], {"rank": 1, "phase": "gate 6", "error": "OutOfMemoryError: CUDA"}, 2)
    by_id = {gate.id: gate for gate in found}
    assert by_id["2"].verdict == gates.PASS
    assert by_id["6"].verdict == gates.FAIL
    assert "OutOfMemoryError" in by_id["6"].sentence
    assert by_id["10"].verdict == gates.SKIP
    assert len(found) == 12


@pytest.mark.parametrize(("phase", "world", "gate"), [("engine", 2, "10"), ("engine", 1, "1"), ("imports", 2, "1")])
def test_a_rank_that_died_before_the_gates(phase, world, gate):
    found = report.complete([], {"rank": 0, "phase": phase, "error": "boom"}, world)
    assert [each.id for each in found if each.verdict == gates.FAIL] == [gate]


def test_the_report_is_whole_after_every_gate(tmp_path):
    kept = report.Report(tmp_path, writes=True)
    kept.begin("skip-sync", [GREEN])
    assert [gate["id"] for gate in report.read(tmp_path)["passes"][0]["gates"]] == ["2"]
    kept.add(GREEN)
    assert len(report.read(tmp_path)["passes"][0]["gates"]) == 2
    report.Report(tmp_path, writes=False).begin("", [])
    assert report.read(tmp_path)["passes"][0]["sabotage"] == "skip-sync"


def test_an_error_note_holds_its_traceback(tmp_path):
    try:
        raise ValueError("no such rank")
    except ValueError as error:
        report.write_error(tmp_path, 3, "engine", error)
    (note,) = report.errors(tmp_path)
    assert (note["rank"], note["phase"], note["error"]) == (3, "engine", "ValueError: no such rank")
    assert "test_inside.py" in note["traceback"]
    assert "remedy" not in note


def test_a_refusal_is_noted_in_its_own_words(tmp_path):
    report.write_error(tmp_path, 0, "imports", report.Refused("no such model", "take another"))
    (note,) = report.errors(tmp_path)
    assert (note["error"], note["remedy"]) == ("no such model", "take another")
