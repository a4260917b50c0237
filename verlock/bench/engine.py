"""The engine that is measured: vLLM as verl starts it, in this process (`external_launcher`), with dummy weights.

Read in 0.7.3, at commit 22757848, in 0.12.0 and in 0.24.0.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from verlock.bench import checkpoint
from verlock.bench.jobs import Job

if TYPE_CHECKING:
    import torch

SLOTS = 256  # sequences decoded at once: the default of vLLM 0.7, and as many as every job but `script` has
# Half of the card, as verl's example gives it; 7B and 256 sequences of 768 tokens take 26.5 GB.
SHARE = 0.5
LONGEST = 8192  # prompt and answer of verl's example
BATCHED = 8192  # tokens of a step, as verl 0.3 sets it
# The method that captures CUDA graphs: V0's, V1's, and the second V1 runner of newer releases.
CAPTURING = (
    "vllm.worker.model_runner:GPUModelRunnerBase",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner",
    "vllm.v1.worker.gpu.model_runner:GPUModelRunner",
)


class Engine(Protocol):
    """What the runner needs of an engine."""

    kind: str
    version: str
    start_seconds: float
    capture_seconds: float | None

    def generate(self, asks: Sequence[tuple[list[int], int]], job: Job) -> tuple[float, list[list[int]]]:
        """Seconds of one rollout; and for each prompt, how many tokens each continuation got (-1 where it lacks logprobs)."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take weights under their Hugging Face names."""

    def sleep(self, level: int) -> None:
        """Give the GPU's memory back: level 1 keeps the weights on the CPU, level 2 drops them."""

    def wake(self) -> None:
        """Take the memory again."""


def arguments(model: Path, mode: str, extra: dict[str, Any]) -> dict[str, Any]:
    """The arguments of vllm.LLM: verl's (vllm_rollout_spmd.py in verl 0.3), then the recipe's."""
    return {
        "model": str(model),
        "tokenizer": str(checkpoint.tokenizer(model)),
        "load_format": "dummy",
        "tensor_parallel_size": 1,
        "distributed_executor_backend": "external_launcher",
        "enforce_eager": mode == "eager",
        "enable_sleep_mode": True,
        "gpu_memory_utilization": SHARE,
        "swap_space": 0,  # V0 would pin 4 GiB; later releases ignore it
        "dtype": "bfloat16",
        "max_model_len": LONGEST,
        "max_num_seqs": SLOTS,
        "max_num_batched_tokens": BATCHED,
        "enable_chunked_prefill": True,
        "enable_prefix_caching": True,
        "disable_custom_all_reduce": True,
        "disable_log_stats": True,
        "seed": 0,
        **extra,
    }


class Vllm:
    """vLLM on the current GPU."""

    def __init__(self, llm: dict[str, Any]) -> None:
        import torch
        import vllm

        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl")  # as a trainer beside it has done before
        self.version = str(vllm.__version__)
        captures = _watch_captures()
        start = time.perf_counter()
        self._llm = vllm.LLM(**llm)
        torch.cuda.synchronize()
        self.start_seconds = time.perf_counter() - start
        self.capture_seconds = None if llm["enforce_eager"] else sum(captures)
        # Read from the live object: vLLM falls back to V0 for what V1 cannot do.
        self.kind = "V1" if type(self._llm.llm_engine).__module__.startswith("vllm.v1.") else "V0"
        worker = self._llm.llm_engine.model_executor.driver_worker
        self._model = getattr(worker, "worker", worker).model_runner.model

    def generate(self, asks: Sequence[tuple[list[int], int]], job: Job) -> tuple[float, list[list[int]]]:
        """See Engine. Every sampling parameter is given: generation_config.json must not change the work."""
        import torch
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": ids} for ids, _ in asks]
        sampling = [
            SamplingParams(
                n=job.n,
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                min_p=0.0,
                presence_penalty=0.0,
                frequency_penalty=0.0,
                repetition_penalty=1.0,
                ignore_eos=True,
                max_tokens=new,
                min_tokens=0,
                logprobs=0 if job.logprobs else None,
                detokenize=job.text,
            )
            for _, new in asks
        ]
        torch.cuda.synchronize()
        start = time.perf_counter()
        answers = self._llm.generate(prompts, sampling, use_tqdm=False)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return seconds, [[_counted(each, job.logprobs) for each in answer.outputs] for answer in answers]

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See Engine."""
        self._model.load_weights(iter(weights))

    def sleep(self, level: int) -> None:
        """See Engine."""
        self._llm.sleep(level=level)

    def wake(self) -> None:
        """See Engine."""
        self._llm.wake_up()


def _counted(output: Any, logprobs: bool) -> int:
    """Tokens of one continuation; -1 where logprobs were asked for, and one is missing."""
    tokens = len(output.token_ids)
    return -1 if logprobs and len(output.logprobs or ()) != tokens else tokens


def _watch_captures() -> list[float]:
    """Wrap what captures CUDA graphs; the list gets the seconds of each call."""
    import torch

    found: list[float] = []

    def watched(whole: Any) -> Any:
        def capture(*given: Any, **named: Any) -> Any:
            torch.cuda.synchronize()
            start = time.perf_counter()
            try:
                return whole(*given, **named)
            finally:
                torch.cuda.synchronize()
                found.append(time.perf_counter() - start)

        return capture

    for place in CAPTURING:
        module, _, name = place.partition(":")
        if _there(module):
            owner = getattr(importlib.import_module(module), name)
            owner.capture_model = watched(owner.capture_model)
    return found


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a folder above it is not there either
        return False
