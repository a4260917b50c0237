"""What the smoke run asks of vLLM and verl, held against built environments: a wrong name fails here, not on a GPU."""

import json
import subprocess
from pathlib import Path

import pytest

from verlock.errors import VerlockError
from verlock.proving import launch_config, smoke_launch
from verlock.system import files
from verlock.variant import lockfiles, receipt
from verlock.variant.chosen import choose, names

pytestmark = pytest.mark.e2e

VLLM = """
import dataclasses, inspect, json, sys
from pathlib import Path
from vllm import LLM
from vllm.engine.arg_utils import EngineArgs
from verlock.smoke import rollout
asked = rollout.arguments(Path("model"), tp=1, mode="graphs", sleep_mode=True, extra=json.loads(sys.argv[1]))
known = {field.name for field in dataclasses.fields(EngineArgs)} | set(inspect.signature(LLM.__init__).parameters)
assert set(asked) - {"swap_space"} <= known, set(asked) - known  # LLM itself drops it in 0.24

from vllm.config import CompilationConfig
if hasattr(CompilationConfig, "init_with_cudagraph_sizes"):  # up to 0.8
    config = CompilationConfig.from_cli(str(asked["compilation_config"]))
    config.init_with_cudagraph_sizes([1, 2, 4, 8])
    assert config.max_capture_size == rollout.MAX_SEQUENCES == max(rollout.CAPTURED)
    assert [config.bs_to_padded_graph_size[size] for size in (1, 8, 9, 64)] == [8, 8, 16, 64]
else:
    config = CompilationConfig(**asked["compilation_config"])
    config.max_cudagraph_capture_size = max(config.cudagraph_capture_sizes)
    config.post_init_cudagraph_sizes()
    assert config.cudagraph_capture_sizes == list(rollout.CAPTURED) and max(rollout.CAPTURED) == rollout.MAX_SEQUENCES

import torch
from types import SimpleNamespace
class Stub:
    def generate(self, prompts, sampling, use_tqdm):
        self.sampling = sampling
        return []
engine = object.__new__(rollout.Vllm)
engine._llm = Stub()
engine.generate([(1, 2)], rollout.Request(new=4, n=4))
assert engine._llm.sampling.n == 4 and engine._llm.sampling.ignore_eos
engine.generate([(1, 2)], rollout.Request(new=4, how=rollout.GREEDY, top=5))
assert "replay" in vars(torch.cuda.CUDAGraph)
assert {"Qwen2ForCausalLM", "LlamaForCausalLM"} < set(rollout.Vllm.architectures())
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, LlamaConfig
assert MODEL_FOR_CAUSAL_LM_MAPPING[LlamaConfig].__name__ == "LlamaForCausalLM"
print("ok")
"""

VERL = """
import json, os, subprocess, sys
from pathlib import Path
import verl
from hydra import compose, initialize_config_dir
from verlock.smoke import grpo
folder = Path(sys.argv[1])
this = grpo.Verl.installed()
made = grpo.overlaid(this, folder, standin=True, skip_sync=False)
real = grpo.overlaid(this, folder / "real", standin=False, skip_sync=False)
assert not (real / "flash_attn").exists()
if not this.serves:
    text = (made / "verl" / grpo.WORKERS).read_text()
    assert text.count("sdpa") >= 3 and "flash_attention_2" not in text
    assert (made / "verl" / grpo.ROLLOUT).read_text().count("_graphs(config.enforce_eager)") == 1
    assert (real / "verl" / grpo.WORKERS).read_text().count("flash_attention_2") >= 3
served = "import inspect; from verl.workers.rollout.vllm_rollout import vllm_rollout as r;" \
    "from verl.utils.debug import metrics; from verlock.smoke import server_hook as h;" \
    "kind = next(getattr(r, name) for name in h.NAMES if hasattr(r, name));" \
    "assert kind.update_weights.__globals__['__name__'] == h.__name__ and inspect.iscoroutinefunction(kind.update_weights);" \
    "assert list(inspect.signature(kind.update_weights).parameters)[:2] == ['self', 'weights'];" \
    "assert metrics.calculate_debug_metrics.__globals__['__name__'] == h.__name__;" \
    "from verl.workers.rollout.vllm_rollout import vllm_async_server; print('installed')"
code = served if this.serves else "from verl.single_controller.base.decorator import MAGIC_ATTR;" \
    "from verl.workers import fsdp_workers as w;" \
    "from verlock.smoke import hook; import inspect;" \
    "found = [getattr(w.ActorRolloutRefWorker, name) for name in hook.METHODS];" \
    "assert all(each.__globals__['__name__'] == 'verlock.smoke.hook' and hasattr(each, MAGIC_ATTR) for each in found);" \
    "assert [list(inspect.signature(each).parameters) for each in found] == [['self', 'prompts'], ['self', 'data']];" \
    "assert hasattr(w.ActorRolloutRefWorker, 'rank'); print('installed')"
path = os.pathsep.join([str(made), os.environ["PYTHONPATH"]])
done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
assert "installed" in done.stdout, done.stderr
step = {"folder": sys.argv[1], "model": "/model", "memory_gib": 80.0, "flags": json.loads(sys.argv[2])}
overrides = grpo.overrides(step, True, this)
with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
    config = compose("ppo_trainer", overrides=overrides)
rollout = config.actor_rollout_ref.rollout
# verl before 0.5.0 asserts this when its engine is built
assert this.serves or rollout.enforce_eager or not rollout.free_cache_engine
assert config.trainer.total_training_steps == 3 and config.trainer.n_gpus_per_node == 1
try:
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
except ImportError:  # before verl 0.9
    pass
else:
    from transformers import AutoTokenizer
    from verlock.smoke import model
    model.write_tokenizer(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    built = create_continuous_token_builder(tokenizer, hf_model_type="qwen2")
    assert "Qwen" in type(built).__name__ and built.build_initial_tokens([{"role": "user", "content": "w5 w6"}]) == [5, 6]
grpo.prepare(folder)
import pandas
rows = pandas.read_parquet(folder / "train.parquet")
assert len(rows) == grpo.PROMPTS and set(rows.reward_model[0]) == {"style", "ground_truth"}
assert [set(message) for message in rows.prompt[0]] == [{"role", "content"}]
print("ok")
"""


def built(variant):
    chosen = choose(variant)
    if not (chosen.prefix / receipt.NAME).exists():
        pytest.skip(f"no environment at {chosen.prefix}: `nox -s env-{variant}` makes it")
    return chosen


def inside(variant, code, *arguments):
    chosen = built(variant)
    command = [chosen.interpreter, "-c", code, *arguments]
    environment = launch_config.variables(chosen)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.parametrize("variant", names())
def test_vllm_knows_every_argument(variant):
    inside(variant, VLLM, json.dumps(choose(variant).recipe.vllm.llm))


@pytest.mark.parametrize("variant", names())
def test_verl_composes_the_step_and_the_stand_in_is_complete(variant, tmp_path):
    inside(variant, VERL, str(tmp_path), json.dumps(choose(variant).recipe.verl.flags))
    assert (Path(tmp_path) / "train.parquet").exists()


@pytest.mark.parametrize("variant", [name for name in names() if choose(name).recipe.patch])
def test_unpatched_is_an_overlay_with_the_locks_original_files(variant, tmp_path):
    chosen = built(variant)
    into = smoke_launch.take_back(chosen, "all", tmp_path / "all")
    touched = [each for patch in lockfiles.sources(chosen.locks)["patches"] for each in patch["touches"]]
    assert touched
    for each in touched:
        assert files.sha256(into / each["path"]) == each["before"]
        assert files.sha256(chosen.site / each["path"]) == each["after"]
    assert (into / "vllm" / "_C.abi3.so").resolve() == (chosen.site / "vllm" / "_C.abi3.so").resolve()
    for patch in lockfiles.sources(chosen.locks)["patches"]:
        into = smoke_launch.take_back(chosen, patch["file"][:4], tmp_path / patch["file"])
        own = {each["path"] for each in patch["touches"]}
        for each in touched:
            wanted = each["before"] if each["path"] in own else each["after"]
            assert files.sha256(into / each["path"]) == wanted
    with pytest.raises(VerlockError, match="9999 names no patch"):
        smoke_launch.take_back(chosen, "9999", tmp_path)
