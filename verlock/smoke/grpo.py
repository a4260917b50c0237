"""Three GRPO steps of verl itself: `python -m verlock.smoke.grpo CONFIG` runs verl.trainer.main_ppo on generated prompts.

What runs is an overlay of verl with calls of a hook at the end of some files: the rollout after a training step must use the new
weights of that step, carried over by verl's own sync. Its engine captures the same few sizes of CUDA graphs as the engine of the
gates. Up to 0.6 verl's engine is in its worker's process (`hook`), later it is a server of its own (`server_hook`).

verl's actor imports flash_attn.bert_padding and asks transformers for flash_attention_2. Where flash-attn is not installed, the
steps run with a stand-in: `sdpa` is asked for instead, and the overlay has a flash_attn whose functions refuse to be called.
That is not what verl trains with, and the report, the table and the certificate say so.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verlock.smoke import hook, model, overlay, rollout, server_hook
from verlock.smoke.report import write_error, write_json
from verlock.smoke.watchdog import Heartbeat

# Seconds. 90 to 134 were measured on an H100; verl 0.9 took 248 to its first step where five processes in a row had no byte code.
LIMIT = 600.0
# GiB the rollout engine may take: its CUDA context and a profiling run take about 1, the rest is for keys and values. A fixed
# share of a large GPU would mean many more blocks, and V0 keeps a Python object for each.
ENGINE_GIB = 3.0
PROMPTS = 64
BATCH = 8
# verl 0.3.0.post1 takes its first step with a learning rate of 0 (`get_constant_schedule_with_warmup` counts from 0 even without
# a warmup): the weights change in the second step, and the rollout of the third shows whether they arrived.
STEPS = 3
# AdamW's first step moves every weight by about this much: on a CPU this moved the logprobs of earlier samples by 0.8 nats.
LEARNING_RATE = 1e-4
# By default eight processes each, which all import verl, and each takes one of Ray's CPUs.
ONE_EACH = ("reward.num_workers=1", "transfer_queue.backend.SimpleStorage.num_data_storage_units=1")
WORKERS = "workers/fsdp_workers.py"
ROLLOUT = "workers/rollout/vllm_rollout/vllm_rollout_spmd.py"
SENDER = "workers/rollout/vllm_rollout/vllm_rollout.py"  # where verl's engine is a server
SERVER = "workers/rollout/vllm_rollout/vllm_async_server.py"
METRICS = "utils/debug/metrics.py"
# verl 0.7.0 with vLLM 0.12: it downloads the vocabulary of gpt-oss whatever the model, from a host of its own.
VOCABULARY = "\n        get_encoding()\n"
# And the sizes of CUDA graphs it hands over as one word, which vLLM 0.12 takes for a number; it ends with that.
ONE_WORD = 'engine_kwargs["cuda_graph_sizes"] = self.config.cudagraph_capture_sizes'

REWARD = '''"""The share of even words: any text can earn it, so that every group of answers has an advantage."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """A number from 0 to 1."""
    words = [word[1:] for word in solution_str.split() if word[1:].isdigit()]
    return sum(int(word) % 2 == 0 for word in words) / max(len(words), 1)
'''

STANDIN = '''"""A stand-in for flash-attn: verl imports these four names, and with sdpa nothing calls them."""


def _refuse(*args, **kwargs):
    raise RuntimeError("flash-attn is not installed: this is the smoke run's stand-in")


index_first_axis = pad_input = rearrange = unpad_input = _refuse
'''


@dataclass(frozen=True)
class Verl:
    """What differs between releases of verl, looked up in the one that is installed.

    Attributes:
        package: its folder.
        serves: its engine is a server in another process (from 0.7 on).
        reward: where its configuration has the reward function.
        falls_back: it has code of its own for where flash-attn is not installed (0.9), and wants no stand-in.
        sizes: the server can be told which sizes of CUDA graphs to capture (not so 0.7.0 with vLLM 0.12).
    """

    package: Path
    serves: bool = False
    reward: str = "custom_reward_function"
    falls_back: bool = False
    sizes: bool = True

    @classmethod
    def installed(cls) -> Verl:
        """The verl of this environment. Raises ModuleNotFoundError."""
        spec = importlib.util.find_spec("verl")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("verl is not installed")
        package = Path(spec.origin).parent
        whole = package / "trainer/config/_generated_ppo_trainer.yaml"
        nested = whole.exists() and re.search(r"^  custom_reward_function:", whole.read_text(encoding="utf-8"), re.M)
        padding, server = package / "utils/attention_utils.py", package / SERVER
        return cls(
            package,
            serves=not (package / ROLLOUT).exists(),
            reward="reward.custom_reward_function" if nested else "custom_reward_function",
            falls_back=padding.exists() and "except ImportError" in padding.read_text(encoding="utf-8"),
            sizes=not (server.exists() and ONE_WORD in server.read_text(encoding="utf-8")),
        )


def overrides(config: dict[str, Any], standin: bool, verl: Verl) -> list[str]:
    """The Hydra overrides of the steps: the suite's own, the stand-in's, and the recipe's flags last.

    Args:
        config: `folder` for what is written, `model` (a checkpoint's folder), `memory_gib` of the GPU, and `flags`.
        standin: flash-attn is not installed.
        verl: whose they are.
    """
    folder = Path(config["folder"])
    share = min(0.9, math.ceil(1000 * ENGINE_GIB / config["memory_gib"]) / 1000)
    actor, ref, rollout = (f"actor_rollout_ref.{part}" for part in ("actor", "ref", "rollout"))
    return [
        "algorithm.adv_estimator=grpo",
        f"data.train_files={folder / 'train.parquet'}",
        f"data.val_files={folder / 'train.parquet'}",
        f"data.train_batch_size={BATCH}",
        "data.max_prompt_length=64",
        "data.max_response_length=32",
        f"actor_rollout_ref.model.path={config['model']}",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        f"actor_rollout_ref.model.use_remove_padding={not standin}",
        *(_served(config, standin, verl) if verl.serves else ()),
        *(ONE_EACH if verl.reward.startswith("reward.") else ()),
        f"{actor}.ppo_mini_batch_size={BATCH}",
        f"{actor}.ppo_micro_batch_size_per_gpu=4",
        f"{actor}.use_kl_loss=True",
        f"{actor}.optim.lr={LEARNING_RATE}",
        f"{ref}.log_prob_micro_batch_size_per_gpu=4",
        f"{rollout}.name=vllm",
        f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.n=4",
        f"{rollout}.gpu_memory_utilization={share}",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=4",
        f"{verl.reward}.path={folder / 'reward.py'}",
        f"{verl.reward}.name=compute_score",
        "trainer.nnodes=1",
        "trainer.n_gpus_per_node=1",
        "trainer.logger=[console]",
        f"trainer.total_training_steps={STEPS}",
        "trainer.total_epochs=1",
        "trainer.save_freq=-1",
        "trainer.test_freq=-1",
        "trainer.resume_mode=disable",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        "++trainer.val_before_train=False",
        *config["flags"],
    ]


def _served(config: dict[str, Any], standin: bool, verl: Verl) -> list[str]:
    """What a verl wants besides whose engine is a server."""
    rollout_ = "actor_rollout_ref.rollout"
    sizes = f"{rollout_}.cudagraph_capture_sizes={list(rollout.CAPTURED)}".replace(" ", "")
    largest = f"+{rollout_}.engine_kwargs.vllm.max_cudagraph_capture_size={max(rollout.CAPTURED)}"
    return [
        f"actor_rollout_ref.model.tokenizer_path={model.tokenizer(Path(config['model']))}",
        *(["+actor_rollout_ref.model.override_config.attn_implementation=sdpa"] if standin else []),
        f"{rollout_}.calculate_log_probs=True",
        sizes if verl.sizes else largest,
        f"{rollout_}.agent.num_workers=1",
    ]


def prepare(folder: Path) -> None:
    """Write prompts and reward into `folder`."""
    import pyarrow
    from pyarrow import parquet

    rows = [
        {
            "prompt": [{"role": "user", "content": " ".join(f"w{token}" for token in prompt)}],
            "data_source": "verlock",
            "reward_model": {"style": "rule", "ground_truth": "even"},
            "extra_info": {"index": index},
        }
        for index, prompt in enumerate(model.prompts("grpo", PROMPTS, 32))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train.parquet")
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")


HOOK = """

from verlock.smoke import hook as _hook

_hook.install(ActorRolloutRefWorker, {folder!r}, {skip_sync!r})
"""


SEND = """

from verlock.smoke import server_hook as _hook

_hook.install_sender(globals(), {folder!r}, {skip_sync!r})
"""

MEASURE = """

from verlock.smoke import server_hook as _hook

calculate_debug_metrics = _hook.measured(calculate_debug_metrics, {folder!r})
"""


# The import may come last: verl makes a rollout only after its module is fully loaded.
GRAPHS = """

from verlock.smoke.rollout import graphs as _graphs
"""


def overlaid(verl: Verl, folder: Path, standin: bool, skip_sync: bool) -> Path:
    """Make the overlay of verl and return its folder, which must come first on PYTHONPATH.

    Args:
        verl: which one.
        folder: where it goes, and where the hook writes what it sees.
        standin: flash-attn is not installed; let verl run without it.
        skip_sync: let the hook break the sync.
    """
    texts = _serving(verl, folder, skip_sync) if verl.serves else _in_process(verl, folder, standin, skip_sync)
    into = folder / "overlay"
    overlay.make(verl.package, texts, into)
    if standin and not verl.falls_back:  # transformers 5 takes a flash_attn that no distribution owns for an error
        (into / "flash_attn").mkdir()
        (into / "flash_attn" / "__init__.py").write_text(STANDIN.splitlines()[0] + "\n", encoding="utf-8")
        (into / "flash_attn" / "bert_padding.py").write_text(STANDIN, encoding="utf-8")
    return into


def _serving(verl: Verl, folder: Path, skip_sync: bool) -> dict[str, str]:
    given = {"folder": str(folder), "skip_sync": skip_sync}
    texts = {
        name: (verl.package / name).read_text(encoding="utf-8") + call.format(**given)
        for name, call in ((SENDER, SEND), (METRICS, MEASURE))
    }
    server = (verl.package / SERVER).read_text(encoding="utf-8")
    if VOCABULARY in server:
        texts[SERVER] = server.replace(VOCABULARY, "\n")
    return texts


def _in_process(verl: Verl, folder: Path, standin: bool, skip_sync: bool) -> dict[str, str]:
    text = (verl.package / WORKERS).read_text(encoding="utf-8")
    if standin:
        text, count = re.subn(r"(attn_implementation=)(['\"])flash_attention_2\2", r"\1\2sdpa\2", text)
        if not count:
            raise RuntimeError(f"verl/{WORKERS} does not ask for flash_attention_2 where the stand-in expects it")
    text += HOOK.format(folder=str(folder), skip_sync=skip_sync)
    asked = "enforce_eager=config.enforce_eager,"  # among the arguments of vllm.LLM
    rollout_text = (verl.package / ROLLOUT).read_text(encoding="utf-8")
    rollout_text = rollout_text.replace(asked, f"{asked} **_graphs(config.enforce_eager),") + GRAPHS
    return {WORKERS: text, ROLLOUT: rollout_text}


_NUMPY = re.compile(r"^np\.\w+\((.+)\)$")  # how numpy 2 prints its numbers


def metrics(printed: str) -> dict[str, float]:
    """The metrics of the last step in what verl's console logger printed: `step:1 - name:value - name:value ...`."""
    found: dict[str, float] = {}
    for line in printed.splitlines():
        if at := re.search(r"\bstep:\d+ - ", line):
            pairs = (part.rsplit(":", 1) for part in line[at.end() :].split(" - ") if ":" in part)
            found = {name.strip(): float(_NUMPY.sub(r"\1", value)) for name, value in pairs}
    return found


def follow(command: list[str], environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """Run `command` in `folder`; return its exit code and output. Each line is also printed at once, with the seconds so far."""
    start = time.monotonic()
    lines = []
    with subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        assert child.stdout
        for line in child.stdout:
            lines.append(line)
            print(f"{time.monotonic() - start:6.1f} s  {line}", end="", flush=True)
    return child.returncode, "".join(lines)


def _since(began: float, step: dict[str, Any]) -> dict[str, Any]:
    """The step, `began` as seconds from the start of the run to its rollout: most of a run is over before the first rollout."""
    return {**step, "began": round(step["began"] - began, 1)} if "began" in step else step


def main(config: dict[str, Any]) -> int:
    """Run the steps; `grpo.json` in the folder says how it went. The exit code is verl's."""
    folder = Path(config["folder"])
    heart = Heartbeat(folder, 0)
    try:
        with heart.phase("verl", LIMIT):
            start, began = time.monotonic(), time.time()
            model.ensure(Path(config["model"]))
            prepare(folder)
            standin = importlib.util.find_spec("flash_attn") is None
            environment = dict(os.environ)
            # A separate Ray session: otherwise ray.init joins any cluster it finds. In /tmp: socket paths have 107 bytes at most.
            environment["RAY_TMPDIR"] = sessions = tempfile.mkdtemp(prefix="vr", dir="/tmp")
            skip_sync = config.get("sabotage") == "verl-skip-sync"
            verl = Verl.installed()
            path = [str(overlaid(verl, folder, standin, skip_sync)), *filter(None, [environment.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(path)
            arguments = overrides(config, standin, verl)
            command = [sys.executable, "-m", "verl.trainer.main_ppo", *arguments]
            code, printed = follow(command, environment, folder)
            shutil.rmtree(sessions, ignore_errors=True)
            result = {
                "code": code,
                "metrics": metrics(printed),
                "steps": [_since(began, step) for step in (server_hook if verl.serves else hook).read(folder)],
                "standin": standin,
                "seconds": time.monotonic() - start,
                "overrides": arguments,
            }
            write_json(folder / "grpo.json", result)
    except BaseException as error:
        write_error(folder, 0, "verl", error)
        raise
    heart.done()
    return code


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
