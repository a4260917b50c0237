"""`verlock smoke` from outside: what it refuses, what it tells the inside, how it judges what comes back."""

import json
import sys
import threading

import pytest
import toy

from verlock import paths
from verlock.errors import (
    DriverTooOld,
    GateFailed,
    ModelRefused,
    NodesDiffer,
    NoGpu,
    NotSealed,
    ReceiptStale,
    SmokeCrashed,
    SmokeHung,
    VerlockError,
)
from verlock.proving import launch_config, nodes, own_model, smoke_launch, smoke_run
from verlock.proving.passes import FULL, VERL, Part
from verlock.proving.smoke_options import Options
from verlock.smoke import gates
from verlock.system.gpu import Gpus
from verlock.variant import certificate, receipt
from verlock.variant.chosen import choose, names

GPU = "NVIDIA H100 80GB HBM3"
H100 = (GPU, 81559, "580.159.04")
TIMES = {"timing_s/step": 2.0, "timing_s/gen": 1.6, "timing_s/update_actor": 0.2}


def test_without_a_gpu_it_ends_at_once_and_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "nowhere"))
    with pytest.raises(NoGpu, match=r"an NVIDIA GPU with driver 525\.60\.13 or newer .* none here") as caught:
        smoke_run.run(choose("vllm073"))
    assert caught.value.exit_code == 50


def test_an_old_driver_is_refused(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi((GPU, 81559, "470.223.02"))
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "nowhere"))
    with pytest.raises(DriverTooOld, match=r"470\.223\.02"):
        smoke_run.run(choose("vllm073"))


def test_without_an_environment_there_is_nothing_to_prove(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi(H100)
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "nowhere"))
    with pytest.raises(NotSealed):
        smoke_run.run(choose("vllm073"))


# with an inside that is a few lines of Python ------------------------------------------------------------

FAKE_PYTHON = """#!{python}
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
config = json.loads(Path(sys.argv[-1]).read_text())
folder = Path(config["folder"])
(folder / "environment.json").write_text(json.dumps(dict(os.environ)))
exec(Path({script!r}).read_text())
"""

SOUND = [
    {"step": 1, "synced": {"mean": 0.004, "mean_exp": 1.004, "count": 1024, "odd": [0, 0], "kl": 1e-5}},
    {
        "step": 2,
        "synced": {"mean": 0.004, "mean_exp": 1.004, "count": 1024, "odd": [0, 0], "kl": 1e-5},
        "stale": {"mean": 0.8, "mean_exp": 2.2, "count": 1024, "odd": [0, 0], "kl": 0.4},
    },
]

GREEN = """
from verlock.smoke import gates
if "flags" in config:
    step = {"code": 0, "metrics": METRICS, "steps": STEPS, "standin": True, "seconds": 1.0, "overrides": []}
    (folder / "grpo.json").write_text(json.dumps(step))
    sys.exit(0)
names = [str(n) for n in range(1, 13)]
passed = [gates.Gate(n, RED.get(n, "pass"), "1", "1", "because" if n in RED else "").as_dict() for n in names]
facts = {"versions": {"vllm": "0.7.3"}, "engine": "V0", "cuda": "12.4", "nccl": "2.21.5", "gpu": GPU}
print_ = [{"tokens": [1, 2], "logprobs": [-1.0, -1.0]}]
report = {"passes": [{"sabotage": config["sabotage"], "gates": passed}], "facts": facts, "fingerprint": print_,
          "phases": [["engine", 20.0, 300.0]], "engine_seconds": 20.0}
(folder / "report.json").write_text(json.dumps(report))
"""


@pytest.fixture
def inside(tmp_path, monkeypatch, nvidia_smi):
    """An environment whose python does what the test says; certificates go to a scratch folder."""
    nvidia_smi(H100)
    monkeypatch.setenv("VERLOCK_ENVS", str(tmp_path / "envs"))
    monkeypatch.setattr(paths, "CERTIFICATES", tmp_path / "certificates")
    monkeypatch.setattr(smoke_run.tempfile, "tempdir", str(tmp_path))
    chosen = choose("vllm073")
    script = tmp_path / "inside.py"
    chosen.interpreter.parent.mkdir(parents=True)
    chosen.interpreter.write_text(FAKE_PYTHON.format(python=sys.executable, root=str(paths.ROOT), script=str(script)))
    chosen.interpreter.chmod(0o755)

    def seal(**other):
        sealed = toy.SEALED | {
            "schema": receipt.SCHEMA,
            "digest": chosen.digest,
            "prefix": str(chosen.prefix),
            "base": {"kind": "host", "version": "3.10.13", "from": "/usr/bin/python3.10"},
            "missing": {"flash-attn": "no such host"},
            "patches": [],
            "source": None,
            "editable": False,
            "created": "2025-01-01",
        }
        receipt.write(chosen.prefix, sealed | other)

    def run(text=GREEN, red=(), metrics=TIMES, steps=SOUND, gpu=GPU, **how):
        told = {"RED": dict.fromkeys(red, "fail"), "METRICS": metrics, "STEPS": steps, "GPU": gpu}
        script.write_text("".join(f"{name} = {value!r}\n" for name, value in told.items()) + text)
        return smoke_run.run(choose("vllm073"), Options(**{"json_path": tmp_path / "report.json", **how}))

    seal()
    run.seal = seal
    run.chosen = chosen
    run.certificates = tmp_path / "certificates" / "vllm073"
    run.report = lambda: json.loads((tmp_path / "report.json").read_text())
    run.environments = lambda: [json.loads(path.read_text()) for path in tmp_path.glob("verlock-*/*/environment.json")]
    return run


def certificates(inside):
    return sorted(path.name for path in inside.certificates.glob("*.json"))


def kept(inside):
    return sorted(path.name.removeprefix("h100-80gb-hbm3-py310-") for path in inside.certificates.glob("parts/*"))


ALL = {f"{part.name}.json" for part in FULL}


def test_a_full_pass_writes_the_certificate(inside, capsys):
    assert inside() == 0
    assert certificates(inside) == ["h100-80gb-hbm3x1.json"]
    assert kept(inside) == []
    data = certificate.of(json.loads((inside.certificates / "h100-80gb-hbm3x1.json").read_text()))
    assert data["digest"] == inside.chosen.digest
    assert data["gpu"] == {"name": GPU, "count": 1, "memory_mib": 81559, "driver": "580.159.04"}
    assert [(each["mode"], each["ranks"], each["tp"]) for each in data["runs"]] == [
        ("eager", 1, 1),
        ("graphs", 1, 1),
        ("eager", 2, 2),
        ("graphs", 2, 2),
        ("eager", 2, 1),
        ("eager and graphs", 1, 1),
        ("eager and graphs", 2, 2),
    ]
    assert data["layouts"] == ["1 rank", "2 ranks sharing 1 GPU"]
    assert data["standin"] is True
    assert data["receipt"]["base"] == {"kind": "host", "version": "3.10.13"}
    assert data["receipt"]["missing"] == ["flash-attn"]
    assert str(paths.ROOT) not in json.dumps(data)
    assert "flash-attn is not installed" in capsys.readouterr().out


def test_the_screen_names_the_gpu_as_the_certificate_does(inside, capsys):
    inside(gpu="NVIDIA H100 80GB HBM3 as torch says")
    assert "vllm073 is certified on NVIDIA H100 80GB HBM3 as torch says: " in capsys.readouterr().err
    assert certificates(inside) == ["h100-80gb-hbm3-as-torch-saysx1.json"]


def test_two_ranks_take_two_gpus_where_there_are_two(inside, nvidia_smi):
    nvidia_smi(H100, H100, H100)
    assert inside() == 0
    assert certificates(inside) == ["h100-80gb-hbm3x2.json"]
    data = certificate.of(json.loads((inside.certificates / "h100-80gb-hbm3x2.json").read_text()))
    assert data["layouts"] == ["1 rank", "2 ranks on 2 GPUs"]


@pytest.mark.parametrize(
    "how", [{"mode": "eager"}, {"verl": False}, {"ranks": 1}, {"ranks": 2}, {"ranks": 2, "tp": 1}, {"unpatched": "all"}]
)
def test_less_than_everything_is_no_certificate(inside, monkeypatch, tmp_path, how):
    monkeypatch.setattr(smoke_launch, "take_back", lambda *arguments: tmp_path / "over")
    assert inside(**how) == 0
    assert certificates(inside) == []
    assert bool(kept(inside)) is not ("unpatched" in how)


def test_parts_of_different_runs_add_up(inside):
    assert inside(ranks=2) == 0
    assert inside(mode="verl") == 0
    assert certificates(inside) == []
    assert inside(ranks=1, verl=False) == 0
    assert certificates(inside) == ["h100-80gb-hbm3x1.json"]


def test_what_is_proven_is_not_run_again_unless_asked_for(inside, capsys):
    inside(ranks=1)
    capsys.readouterr()
    inside(ranks=1, mode="eager")
    assert [run["mode"] for run in inside.report()["runs"]] == ["eager", "eager and graphs"]
    assert inside() == 0
    assert "not run again: eager-ranks1-tp1, graphs-ranks1-tp1, verl-ranks1-tp1" in capsys.readouterr().err
    assert {run.get("ranks") for run in inside.report()["runs"] if run["mode"] != "eager and graphs"} == {2}
    assert certificates(inside) == ["h100-80gb-hbm3x1.json"]


@pytest.mark.parametrize(
    "other",
    [{"base": {"kind": "conda", "version": "3.10.13"}}, {"missing": {}}, {"base": {"kind": "host", "version": "9"}}],
)
def test_parts_of_another_environment_do_not_add_up(inside, other):
    inside(ranks=1)
    inside.seal(**other)
    inside(ranks=2)
    assert certificates(inside) == []


@pytest.mark.parametrize("size", [0, 100])
def test_a_part_that_is_not_whole_is_run_again(inside, size):
    inside(ranks=1)
    for part in inside.certificates.glob("parts/*"):
        part.write_bytes(part.read_bytes()[:size])
    inside(ranks=2)
    assert certificates(inside) == []
    inside(ranks=1)
    assert certificates(inside) == ["h100-80gb-hbm3x1.json"]


def test_parts_of_another_gpu_do_not_add_up(inside, nvidia_smi):
    inside(ranks=1)
    nvidia_smi(("NVIDIA H200", 143771, "580.159.04"))
    inside(ranks=2, gpu="NVIDIA H200")
    assert certificates(inside) == []
    inside(ranks=1, gpu="NVIDIA H200")
    assert certificates(inside) == ["h200x1.json"]


def test_a_launch_that_is_red_is_kept_no_longer(inside):
    inside(ranks=1)
    assert "eager-ranks1-tp1.json" in kept(inside)
    with pytest.raises(GateFailed):
        inside(ranks=1, mode="eager", red=["5"])
    assert kept(inside) == ["graphs-ranks1-tp1.json", "verl-ranks1-tp1.json"]
    with pytest.raises(SmokeCrashed):
        inside(text="sys.exit(3)", ranks=1, mode="graphs")
    assert kept(inside) == ["verl-ranks1-tp1.json"]


def test_a_launch_is_kept_only_if_its_repetition_was_green_too(inside):
    inside(ranks=1)
    text = "RED = {'5': 'fail'} if config['folder'].endswith('again') else {}\n" + GREEN
    with pytest.raises(GateFailed):
        inside(text=text, ranks=1, mode="eager", again=True)
    assert kept(inside) == ["graphs-ranks1-tp1.json", "verl-ranks1-tp1.json"]


def test_a_launch_that_no_full_pass_has_is_not_kept(inside):
    assert inside(ranks=2, tp=1, mode="graphs") == 0
    assert inside(ranks=4, mode="eager") == 0
    assert kept(inside) == []


def test_engines_that_answer_differently_are_no_certificate(inside):
    text = GREEN.replace("[-1.0, -1.0]", "[-1.0, -1.0 if config['mode'] == 'eager' else -9.0]")
    with pytest.raises(GateFailed, match="with CUDA graphs and one without answer the same prompts differently"):
        inside(text=text)
    assert certificates(inside) == kept(inside) == []


def test_ranks_that_make_no_whole_replicas_are_refused():
    with pytest.raises(VerlockError, match="3 ranks make no replicas of 2"):
        Options(ranks=3, tp=2).plan()
    assert [(part.ranks, part.tp) for part in Options(tp=3).plan()] == [(3, 3)]


def test_the_plan_has_what_was_asked_for():
    plan = Options().plan()
    assert plan == list(FULL)
    assert Options(ranks=4, tp=1).plan() == [Part("eager", 4, 1)]
    assert Options(ranks=2, tp=1, mode="graphs").plan() == [Part("graphs", 2, 1)]
    assert Options(mode="verl").plan() == [VERL]
    assert Options(sabotage="all", ranks=2).plan() == [Part("graphs", 2, 2), VERL]
    assert Options(sabotage="all", verl=False).plan() == [Part("graphs")]
    assert Options(sabotage="verl-skip-sync").plan() == [VERL]
    with pytest.raises(VerlockError, match="breaks CUDA graphs"):
        Options(sabotage="stale-graph", mode="eager").plan()
    assert {part.mode for part in Options(unpatched="all").plan()} == {"eager"}


def test_a_red_gate_fails_by_name_and_certifies_nothing(inside):
    with pytest.raises(GateFailed, match="gate 5: because") as caught:
        inside(red=["5"])
    assert caught.value.exit_code == 51
    assert certificates(inside) == []
    assert inside.report()["problems"]


def test_a_metric_that_is_not_finite_fails_verls_step(inside):
    with pytest.raises(GateFailed, match="actor/pg_loss is not finite"):
        inside(text="nan = float('nan')\n" + GREEN.replace("METRICS", "{**METRICS, 'actor/pg_loss': nan}"))


UNSYNCED = [SOUND[0], {**SOUND[1], "synced": SOUND[1]["stale"]}]


def test_a_sync_that_verl_does_not_make_is_seen(inside):
    with pytest.raises(GateFailed, match="its sync did not carry the new weights over"):
        inside(mode="verl", steps=UNSYNCED)
    assert kept(inside) == []


def test_the_sabotage_of_verls_sync_runs_verl_alone(inside):
    assert inside(sabotage="verl-skip-sync", steps=UNSYNCED) == 0
    (run,) = inside.report()["runs"]
    assert (run["mode"], run["sabotage"]) == ("verl", "verl-skip-sync")
    with pytest.raises(GateFailed, match="verl-skip-sync must turn gate verl red"):
        inside(sabotage="verl-skip-sync")


def test_a_sabotage_that_turns_its_gate_red_succeeds_and_certifies_nothing(inside):
    assert inside(sabotage="stale-cache", red=["5"]) == 0
    assert certificates(inside) == []


def test_a_run_of_verl_that_dies_shows_nothing_of_its_gate(inside):
    """On a GPU with too little room verl's engine did not start, and that red counted as the one that was meant."""
    with pytest.raises(GateFailed, match="the run died, which shows nothing of the gate"):
        inside(text=GREEN.replace('"code": 0', '"code": 1'), sabotage="verl-skip-sync", steps=UNSYNCED)


def test_an_engine_that_does_not_start_ends_all_sabotages_with_a_sentence(inside):
    text = (
        "from verlock.smoke.report import write_error\n"
        'write_error(folder, 0, "engine", RuntimeError("no memory"))\nsys.exit(1)\n'
    )
    with pytest.raises(GateFailed, match="vLLM does not start: RuntimeError: no memory"):
        inside(text=text, sabotage="all", verl=False)


@pytest.mark.parametrize("red", [[], ["4"], ["4", "5"]])
def test_a_sabotage_that_does_anything_else_fails(inside, red):
    with pytest.raises(GateFailed, match="stale-cache must turn gate 5 red and no other"):
        inside(sabotage="stale-cache", red=red)


def test_an_engine_that_does_not_start_on_two_ranks_is_gate_10(inside):
    text = GREEN.replace(
        '(folder / "report.json")',
        "from verlock.smoke.report import write_error\n"
        'write_error(folder, 0, "engine", RuntimeError("world_size (2) is not equal to"))\nsys.exit(1)\n(folder / "report.json")',
    )
    with pytest.raises(GateFailed, match=r"gate 10: vLLM does not start on 2 ranks: RuntimeError: world_size \(2\)"):
        inside(text=text, ranks=2)


def test_a_death_without_a_word_shows_the_end_of_the_log(inside):
    with pytest.raises(SmokeCrashed, match=r"(?s)code 3 .*cannot open shared object") as caught:
        inside(text="print('libcuda.so.1: cannot open shared object file'); sys.exit(3)")
    assert caught.value.exit_code == 53


def test_a_death_in_one_launch_loses_none_of_the_others(inside, capsys):
    with pytest.raises(SmokeCrashed):
        inside(text="if config.get('mode') == 'graphs' and config['ranks'] == 1: sys.exit(3)\n" + GREEN)
    out = capsys.readouterr().out
    assert "vllm073: eager" in out
    assert "2 ranks sharing 1 GPU" in out
    assert sorted(kept(inside)) == sorted(ALL - {"graphs-ranks1-tp1.json"})
    assert inside(ranks=1, mode="graphs") == 0
    assert certificates(inside) == ["h100-80gb-hbm3x1.json"]


HANG = """
from verlock.smoke.watchdog import Heartbeat
heart = Heartbeat(folder, 0)
def rank_zero_hangs():
    time.sleep(60)
with heart.phase("engine", 0.5):
    rank_zero_hangs()
"""


def test_a_hang_has_its_own_exit_code_and_shows_the_stack(inside):
    with pytest.raises(SmokeHung, match=r"(?s)'engine'.*rank_zero_hangs") as caught:
        inside(text=HANG)
    assert caught.value.exit_code == 52


def test_the_sabotage_hang_is_told_by_the_watchdog_alone(inside):
    text = GREEN + HANG.replace("engine", "last barrier")
    assert inside(text=text, sabotage="hang") == 0


def test_the_inside_sees_the_recipes_environment_and_not_the_users(inside, monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_USE_V1", "1")
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "XFORMERS")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(GateFailed):  # what is green leaves no folder to look into
        inside(red=["5"], metrics={}, ranks=1)
    eager, graphs, verl = inside.environments()
    for seen in (eager, graphs, verl):
        assert seen["VLLM_USE_V1"] == "0"
        assert seen["PYTHONPATH"] == str(paths.ROOT)
        assert not {"VLLM_ATTENTION_BACKEND", "PYTORCH_CUDA_ALLOC_CONF"} & set(seen)
        assert seen["VLLM_CACHE_ROOT"].startswith(str(tmp_path))
        assert seen["PATH"].startswith(f"{inside.chosen.prefix}/bin:")
        assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == ("0", "PCI_BUS_ID")
    assert eager["VLLM_CACHE_ROOT"] == graphs["VLLM_CACHE_ROOT"] == verl["VLLM_CACHE_ROOT"]


def test_an_order_of_gpus_that_the_user_set_stays(nvidia_smi, monkeypatch):
    assert launch_config.variables(choose("vllm073"))["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert launch_config.variables(choose("vllm073"))["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_gpus_named_by_uuid_are_passed_on_by_index(nvidia_smi, monkeypatch):
    """vLLM 0.7 takes each entry of CUDA_VISIBLE_DEVICES for a number."""
    gpus = [(GPU, 81559, "580.159.04", f"GPU-{number}aaa-bbbb") for number in range(3)]
    nvidia_smi(*gpus)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2aaa-bbbb,GPU-1")
    seen = launch_config.variables(choose("vllm073"))
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == ("2,1", "PCI_BUS_ID")


@pytest.mark.parametrize(
    ("second", "says"),
    [("-1.0", "1/1 sequences, logprobs equal bit for bit"), ("-1.5", "1/1 sequences, logprobs up to 5.0e-01 apart")],
)
def test_what_one_seed_gives_in_two_processes_is_told(inside, capsys, second, says):
    drawn = f"[{{'tokens': [5], 'logprobs': [{second} if config['folder'].endswith('again') else -1.0]}}]"
    text = GREEN.replace('"engine_seconds": 20.0', f'"engine_seconds": 20.0, "samples": {drawn}')
    assert inside(text=text, ranks=1, mode="eager", again=True) == 0
    assert f"the same seed in two processes: {says}" in capsys.readouterr().err
    assert [run.get("again") for run in inside.report()["runs"]] == [None, says]
    assert kept(inside) == ["eager-ranks1-tp1.json"]


def test_an_environment_made_from_another_lock_is_not_proven(inside):
    inside.seal(digest="e" * 64)
    with pytest.raises(ReceiptStale, match="`nox -s env-vllm073` brings it up to date"):
        inside()
    assert kept(inside) == []


@pytest.mark.parametrize("variant", names())
def test_every_recipe_has_what_the_inside_is_told(variant, tmp_path):
    chosen = choose(variant)
    told = launch_config.configuration(chosen, Gpus(GPU, 1, 81559, "580.1"), Part("eager"), tmp_path)
    expected = told["expected"]
    assert expected["versions"]["vllm"] == chosen.recipe.vllm.version
    assert {"vllm", "verl", "torch", "transformers", "ray"} <= set(expected["versions"])
    assert expected["cxx11abi"] is chosen.recipe.torch.cxx11abi
    assert expected["engine"] == chosen.recipe.vllm.engine
    facts = {
        "driver": chosen.recipe.cuda.min_driver,
        "imports": {},
        **{key: expected[key] for key in ("engine", "cuda", "cxx11abi", "versions")},
    }
    assert gates.environment(facts, expected).verdict == gates.PASS


@pytest.mark.parametrize(("ranks", "there", "used"), [(1, 4, 1), (2, 4, 2), (2, 1, 1), (4, 2, 2)])
def test_the_inside_is_told_how_many_gpus_it_has(tmp_path, ranks, there, used):
    machine = Gpus(GPU, there, 81559, "580.1")
    assert launch_config.configuration(choose("vllm073"), machine, Part("eager", ranks), tmp_path)["gpus"] == used


def test_verl_is_told_the_memory_of_one_gpu_and_the_recipes_flags(tmp_path):
    chosen = choose("vllm073")
    told = launch_config.verl_configuration(chosen, Gpus(GPU, 2, 81920, "580.1"), tmp_path)
    assert (told["memory_gib"], told["flags"]) == (80.0, chosen.recipe.verl.flags)


@pytest.fixture
def llama(tmp_path):
    folder = tmp_path / "Tiny-Llama"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "model.safetensors").write_text("")
    return own_model.at(folder)


def test_a_users_own_model_gives_a_report_of_its_name_and_no_certificate(inside, llama, tmp_path, capsys):
    assert inside(model=llama, json_path=None) == 0
    assert certificates(inside) == kept(inside) == []
    (path,) = (inside.certificates / "reports").iterdir()
    assert path.name == "h100-80gb-hbm3x1-model-tiny-llama.json"
    data = json.loads(path.read_text())
    assert data["model"]["name"] == "Tiny-Llama" and set(data["model"]["left_out"]) == {"6", "10", "verl"}
    ran = [(run["mode"], run["ranks"], run["tp"]) for run in data["runs"]]
    gates_only = [(part.mode, part.ranks, part.tp) for part in FULL if part != VERL]
    assert ran == [*gates_only, ("eager and graphs", 1, 1), ("eager and graphs", 2, 2)]
    assert {run["model"] for run in data["runs"]} == {"Tiny-Llama"}
    assert str(tmp_path) not in path.read_text()
    told = capsys.readouterr()
    assert "vllm073: graphs, Tiny-Llama, 2 ranks" in told.out
    assert "with your own model, gate 10: weights are not compared" in told.err
    assert "all green with Tiny-Llama; no certificate" in told.err


def test_a_users_own_model_leaves_the_parts_of_a_pass_alone(inside, llama):
    inside(ranks=1)
    before = kept(inside)
    inside(model=llama, ranks=1)
    with pytest.raises(GateFailed, match="gate 5: because"):
        inside(model=llama, ranks=1, red=["5"])
    assert kept(inside) == before != []
    assert inside.report()["model"]["name"] == "Tiny-Llama", "a red run has a report too"


def test_a_users_own_model_that_the_environment_refuses_is_not_tried_again(inside, llama, tmp_path):
    text = (
        "from verlock.smoke.report import Refused, write_error\n"
        'write_error(folder, 0, "imports", Refused("no such architecture", "take another"))\nsys.exit(1)\n'
    )
    with pytest.raises(ModelRefused, match="no such architecture\n  take another"):
        inside(model=llama, text=text)
    assert not list(tmp_path.glob("verlock-smoke-*")) and not list(inside.certificates.glob("*"))


def test_the_launch_is_told_of_a_users_own_model(llama, tmp_path):
    told = launch_config.configuration(choose("vllm073"), Gpus(GPU, 1, 81559, "580.1"), Part("eager"), tmp_path)
    assert "own" not in told and "limits" not in told
    told = own_model.launched_with(told, llama)
    assert (told["model"], told["own"]) == (str(llama.folder), True)


# over several nodes: two agents in two threads ------------------------------------------------------------


@pytest.fixture
def spread(inside, monkeypatch):
    """The run of two agents; gives what each of them ended with."""
    monkeypatch.setattr(nodes, "AGAIN", 0.05)

    def run(other=None, **how):
        port, found = nodes.free_port(), {}

        def agent(rank, asked):
            try:
                found[rank] = inside(place=nodes.Place(2, rank, "127.0.0.1", port), **asked)
            except VerlockError as error:
                found[rank] = error

        threads = [threading.Thread(target=agent, args=each) for each in ((0, how), (1, other or how))]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return found

    return run


def test_a_pass_over_two_nodes_is_a_certificate_of_its_own(spread, inside, capsys):
    assert inside(ranks=1) == 0
    before = kept(inside)
    capsys.readouterr()
    assert spread() == {0: 0, 1: 0}
    assert certificates(inside) == [] and kept(inside) == before != []
    (path,) = inside.certificates.glob("2-nodes/*")
    assert path.name == "h100-80gb-hbm3x2.json"
    (data,) = certificate.over_nodes("vllm073")
    assert data["layouts"] == ["2 ranks on 2 GPUs of 2 nodes"] and data["nodes"] == 2
    assert [(run["mode"], run["ranks"], run["tp"], run["nodes"]) for run in data["runs"]] == [
        ("eager", 2, 2, 2),
        ("graphs", 2, 2, 2),
        ("eager", 2, 1, 2),
        ("eager and graphs", 2, 2, 2),
    ]
    assert certificate.read("vllm073") == [], "it is no proof of one machine"
    said = capsys.readouterr()
    assert said.out.count("vllm073: eager, 2 ranks on 2 GPUs of 2 nodes, TP=1") == 1, "only node 0 shows tables"
    assert "vllm073 is certified on 2 ranks on 2 GPUs of 2 nodes" in said.err
    assert "all green; node 0 has the tables" in said.err
    assert inside() == 0 and certificates(inside) == ["h100-80gb-hbm3x1.json"]


def test_a_pass_over_nodes_that_is_not_whole_is_no_certificate(spread, inside):
    assert spread(mode="eager") == {0: 0, 1: 0}
    assert not list(inside.certificates.glob("*"))
    assert {(run["mode"], run["tp"]) for run in inside.report()["runs"]} == {("eager", 2), ("eager", 1)}


def test_agents_that_mean_other_runs_are_told_so_before_anything_starts(spread, tmp_path):
    found = spread({"mode": "graphs", "ranks": 4}, mode="eager")
    for error in found.values():
        assert isinstance(error, NodesDiffer) and "--mode is graphs on node 1, and eager on node 0" in error.problem
    assert not list(tmp_path.glob("verlock-smoke-*")), "nothing was started, and nothing is left"


def test_more_ranks_than_gpus_on_a_node_are_refused(spread):
    for error in spread(ranks=4).values():
        assert isinstance(error, NoGpu)
        assert "2 ranks on every node take as many GPUs on each, and this one has 1" in error.problem


def test_a_rank_that_dies_on_another_node_is_a_red_gate_on_both(spread, inside):
    text = (
        "from verlock.smoke.report import write_error\n"
        + GREEN
        + '\nif "--node-rank=1" in sys.argv:\n    write_error(folder, 1, "gate 4", RuntimeError("boom"))\n    sys.exit(1)\n'
    )
    found = spread(text=text, mode="eager", tp=2)
    for error in found.values():
        assert isinstance(error, GateFailed) and "gate 4: rank 1 died: RuntimeError: boom" in error.problem
    assert not list(inside.certificates.glob("*"))


def test_a_node_that_crashes_is_named_on_both(spread):
    text = GREEN + '\nif "--node-rank=1" in sys.argv:\n    print("no libcuda")\n    sys.exit(3)\n'
    found = spread(text=text, mode="eager", tp=2)
    for error in found.values():
        assert isinstance(error, SmokeCrashed) and "node 1:\n" in error.problem and "no libcuda" in error.problem


def test_ranks_on_several_nodes_talk_over_the_interface_that_leads_there(spread, inside, monkeypatch):
    spread(red=["5"], mode="eager", tp=2)
    for seen in inside.environments():
        assert (seen["GLOO_SOCKET_IFNAME"], seen["NCCL_SOCKET_IFNAME"], seen["VLLM_HOST_IP"]) == (
            "lo",
            "lo",
            "127.0.0.1",
        )
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    assert launch_config.between_nodes("127.0.0.1")["NCCL_SOCKET_IFNAME"] == "ib0"


def test_the_launches_over_nodes_are_those_that_one_machine_cannot_make():
    place = nodes.Place(2, 0, "node0", 29500)
    assert Options(place=place).plan() == [Part("eager", 2, 2, 2), Part("graphs", 2, 2, 2), Part("eager", 2, 1, 2)]
    assert Options(place=place, ranks=4, tp=2).plan() == [Part("eager", 4, 2, 2)]
    assert Options(place=place, ranks=16, mode="graphs").plan() == [Part("graphs", 16, 16, 2)]
    with pytest.raises(VerlockError, match="3 ranks do not make 2 equal nodes"):
        Options(place=place, ranks=3).plan()
    assert not set(Options(place=place).plan()) & set(FULL)
