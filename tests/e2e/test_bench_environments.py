"""What the benchmark asks of vLLM, held against built environments: a wrong name or option fails here, not on a GPU."""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from verlock.bench.jobs import JOBS
from verlock.bench.shapes import SHAPES, Shape
from verlock.errors import VerlockError
from verlock.proving import bench_upstream, launch_config
from verlock.proving.bench_plan import Cell
from verlock.variant import receipt
from verlock.variant.chosen import choose, names

pytestmark = pytest.mark.e2e

ENGINE = """
import dataclasses, inspect, json, sys
from pathlib import Path
from types import SimpleNamespace
import torch
import vllm
from vllm import LLM
from vllm.engine.arg_utils import EngineArgs
from verlock.bench import checkpoint, engine, jobs, shapes
asked = engine.arguments(Path("model"), "graphs", json.loads(sys.argv[1]))
known = {field.name for field in dataclasses.fields(EngineArgs)} | set(inspect.signature(LLM.__init__).parameters)
assert set(asked) - {"swap_space"} <= known, set(asked) - known

class Stub:
    def generate(self, prompts, sampling, use_tqdm):
        self.sampling = sampling
        output = lambda each: SimpleNamespace(token_ids=[1] * each.max_tokens, logprobs=None if each.logprobs is None else [{}])
        return [SimpleNamespace(outputs=[output(each)] * each.n) for each in sampling]
torch.cuda.synchronize = lambda: None
live = object.__new__(engine.Vllm)
live._llm = Stub()
for name, counts in (("n8", [[-1] * 8]), ("text", [[3]])):
    job = jobs.JOBS[name]
    seconds, counted = live.generate([([1, 2], 3)], job)
    assert counted == counts and seconds > 0, counted
    (sampling,) = live._llm.sampling
    assert (sampling.n, sampling.max_tokens, sampling.ignore_eos, sampling.detokenize) == (job.n, 3, True, job.text)

captures = engine._watch_captures()
import importlib
places = [place.split(":") for place in engine.CAPTURING if engine._there(place.split(":")[0])]
assert places, "no runner that captures CUDA graphs"
for module, name in places:
    owner = getattr(importlib.import_module(module), name)
    try:
        owner.capture_model(SimpleNamespace(), *([] if ".v1." in module else [None]))
    except Exception:
        pass
assert len(captures) == len(places), (captures, places)

from transformers import AutoConfig, AutoTokenizer, Qwen2ForCausalLM
for shape in shapes.SHAPES.values():
    checkpoint.write(Path("model"), shape)
    with torch.device("meta"):
        made = Qwen2ForCausalLM(AutoConfig.from_pretrained("model"))
    assert {name: tuple(weight.shape) for name, weight in made.named_parameters()} == dict(shape.weights())
    tokenizer = AutoTokenizer.from_pretrained("model/tokenizer")
    ids = [0, 1, 5, shape.vocabulary - 1, 77]
    assert len(tokenizer) == shape.vocabulary and tokenizer.encode(tokenizer.decode(ids)) == ids
print("ok")
"""

# Parses the command line of vLLM's own benchmark with vLLM's own parser, and stops where it would start an engine.
UPSTREAM = """
import runpy, sys
import vllm
def stop(**asked):
    assert asked["distributed_executor_backend"] == "external_launcher" and asked["load_format"] == "dummy", asked
    assert asked["max_num_seqs"] == 256 and asked["enable_sleep_mode"] and not asked["enforce_eager"]
    assert asked["enable_prefix_caching"] and asked["gpu_memory_utilization"] == 0.5
    print("stopped before the engine")
    raise SystemExit(0)
stop.from_engine_args = lambda asked: stop(**vars(asked))  # so from 0.24 on
vllm.LLM = stop
sys.argv = sys.argv[1:]
if sys.argv[0] == "-m":
    runpy.run_module(sys.argv.pop(1), run_name="__main__")
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""

COSTS = """
import json, sys
from verlock.bench import loop_costs, shapes
sys.path.append(sys.argv[2])
from fakebench import FakeEngine
shape = shapes.Shape(**json.loads(sys.argv[1]))
fake = FakeEngine({"enforce_eager": True})
loop_costs.BUCKET = 4096
found = loop_costs.measure(fake, shape, "cpu")
names = [name for name, _ in shape.weights()]
assert fake.loaded == names * 6 and fake.levels == [1, 1, 1, 2, 2, 2], fake.levels
assert all(len(found[key]) == 3 for key in ("whole", "bucketed", "sleep_1", "wake_1", "sleep_2", "wake_2"))
groups = list(loop_costs.buckets(dict.fromkeys("abcd", __import__("torch").ones(3)), 6))
assert [[name for name, _ in group] for group in groups] == [["a", "b"], ["c", "d"]]
print("ok")
"""


@pytest.fixture(params=names())
def built(request):
    chosen = choose(request.param)
    try:
        receipt.read(chosen.prefix)
    except VerlockError:
        pytest.skip(f"no environment at {chosen.prefix}")
    return chosen


def inside(chosen, code, *arguments, folder, **variables):
    environment = {**launch_config.variables(chosen), "FAKE_STARTS": os.devnull, "RANK": "0", **variables}
    done = subprocess.run(
        [str(chosen.interpreter), "-c", code, *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_vllm_knows_every_name_that_the_benchmark_uses(built, tmp_path):
    assert inside(built, ENGINE, json.dumps(built.recipe.vllm.llm), folder=tmp_path).endswith("ok\n")


def test_vllms_own_benchmark_takes_our_options(built, tmp_path):
    from verlock.bench import checkpoint

    model = tmp_path / "model"
    checkpoint.write(model, SHAPES["7b"])
    cell = Cell(built.name, "graphs", SHAPES["7b"], JOBS["upstream"], 1, 1, 0)
    try:
        command = bench_upstream.command(built, cell, model, tmp_path, tmp_path / "out.json")
    except VerlockError as error:
        pytest.skip(error.problem)
    assert inside(built, UPSTREAM, *command[1:], folder=tmp_path).endswith("stopped before the engine\n")


def test_the_costs_of_a_loop_are_measured_on_every_weight(built, tmp_path):
    tiny = Shape("tiny", 8, 16, 2, 2, 1, 32, tied=False)
    tests = str(Path(__file__).parent.parent)
    assert inside(built, COSTS, json.dumps(asdict(tiny)), tests, folder=tmp_path) == "ok\n"


def test_costs_and_profile_are_cells_like_the_others(built, tmp_path):
    tests = str(Path(__file__).parent.parent)
    tiny = Shape("tiny", 8, 16, 2, 2, 1, 32, tied=True)
    jobs = [
        {"job": {**asdict(JOBS[name]), "prompts": 2, "new": 3}, "iterations": 1, "first": 0, "head": {"job": name}}
        for name in ("n8", "profile", "costs")
    ]
    for each in jobs:
        each["file"] = str(tmp_path / f"{each['head']['job']}.json")
    config = {
        "folder": str(tmp_path), "model": "model", "engine": "fakebench:FakeEngine", "device": "cpu", "uuid": "",
        "mode": "graphs",
        "hardware": {"copy_gb_s": 1000.0, "matmul_tflops": 100.0}, "llm": {}, "shape": asdict(tiny), "head": {}, "jobs": jobs,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    # a program that traces real operations first, since the stand-in makes none
    trace = "import torch, time; from verlock.bench import profile\n"
    trace += "found = profile.traced(lambda: float(torch.ones(99, 99).matmul(torch.ones(99, 99))[0, 0]), 'cpu')\n"
    trace += "assert found['kernels'] > 0 and any('mm' in name for name, _, _ in found['longest']), found\n"
    inside(built, trace, folder=tmp_path)
    run = f"import sys, runpy; sys.path.append({tests!r}); runpy.run_module('verlock.bench', run_name='__main__')"
    inside(built, run, str(tmp_path / "config.json"), folder=tmp_path)
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("n8", "profile", "costs")}
    assert all(each["complete"] and each["hardware"]["copy_gb_s"] == 1000.0 for each in found.values())
    assert len(found["costs"]["costs"]["wake_2"]) == 3
    assert set(found["profile"]["profile"]) == {"seconds", "traced_seconds", "kernels", "shares", "longest"}
    assert [each["tokens"] for each in found["n8"]["iterations"]] == [48]
