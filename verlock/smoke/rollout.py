"""The rollout engine: vLLM in this very process, started by torchrun (`external_launcher`), with sleep mode.

The vLLM code used here was read in 0.7.0-0.7.3, at commit 22757848 and in 0.8.3; V0 and V1 keep the model in the same place
when the engine runs in process.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from verlock.smoke import memory, model, names

if TYPE_CHECKING:
    import torch

# Decode batches of this suite are at most this large. A batch is padded to the next size that has a CUDA graph; by default vLLM
# would capture 11 sizes in V0 and 67 in V1.
MAX_SEQUENCES = 64
CAPTURED = (8, 16, 32, 64)
# 4 GiB of keys and values for this model (32 KiB a block of 16 tokens). V0 keeps a Python object for each block: with 0.3 of an
# H200 there were 1.3 million, and starting and resetting took 50 s for these objects alone.
BLOCKS = 131_072
MAX_LENGTH = 1024


@dataclass(frozen=True)
class Generated:
    """One generated sequence.

    Attributes:
        prompt: the ids it continues.
        tokens: the new ids.
        logprobs: the engine's logprob of each new id, at temperature 1 and top_p 1.
        top: per new id, the most likely ids with their logprobs, when asked for.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[dict[int, float], ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: by default from the model's own distribution."""

    temperature: float = 1.0
    top_p: float = 1.0


PLAIN = Sampling()
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Request:
    """What a rollout asks for.

    Attributes:
        new: tokens per continuation.
        n: continuations per prompt.
        how: how tokens are drawn.
        top: how many of the most likely ids to report with each token.
        seed: the same on every rank of a tensor parallel group.
    """

    new: int
    n: int = 1
    how: Sampling = PLAIN
    top: int = 0
    seed: int = 0


class Engine(Protocol):
    """What the suite needs of a rollout engine."""

    kind: str
    vocabulary: int
    tokenizer: int

    @staticmethod
    def architectures() -> Collection[str]:
        """The model architectures that it serves, by the names in a config.json."""

    def generate(self, prompts: Sequence[tuple[int, ...]], request: Request) -> list[list[Generated]]:
        """For each prompt, its continuations."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take new weights under their Hugging Face names, in process."""

    def reset_prefix_cache(self) -> None:
        """Forget the keys and values of all prompts."""

    def sleep(self) -> None:
        """Give the GPU's memory back."""

    def wake(self) -> None:
        """Take the memory again, with the weights as they were."""

    def memory(self, per_process: bool) -> float:
        """GiB in use: by this process, or by everyone on its device."""

    def parameters(self) -> dict[str, torch.Tensor]:
        """The live parameters under vLLM's names."""

    def placement(self) -> dict[str, int]:
        """From the live engine: engine_rank, device (of its weights), current_device (as it left it), tp_rank, tp_size."""

    def ordered(self) -> bool:
        """Would a collective that the engine launches now run on the same stream as its model?"""

    def replays(self) -> int:
        """How many CUDA graphs were replayed in this process so far."""

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Inside, the engine's forward runs without CUDA graphs and without compilation."""

    @contextmanager
    def stale_graphs(self) -> Iterator[None]:
        """Inside, a CUDA graph does not see its new input: its output stays the same."""


def arguments(checkpoint: Path, *, tp: int, mode: str, sleep_mode: bool, extra: dict[str, Any]) -> dict[str, Any]:
    """The arguments of vllm.LLM: the suite's, then the recipe's."""
    return {
        "model": str(checkpoint),
        "tokenizer": str(model.tokenizer(checkpoint)),
        "tensor_parallel_size": tp,
        "distributed_executor_backend": "external_launcher",
        "enforce_eager": mode == "eager",
        "enable_sleep_mode": sleep_mode,
        # The next line sets how much is taken. This share only makes vLLM refuse to start if that much of the GPU is already in
        # use, by anyone: it must be large enough for the engine and trainer of another rank.
        "gpu_memory_utilization": 0.6,
        "num_gpu_blocks_override": BLOCKS,
        "swap_space": 0,  # V0 would pin 4 GiB; later releases ignore it
        "dtype": "bfloat16",
        "max_model_len": MAX_LENGTH,
        "max_num_seqs": MAX_SEQUENCES,
        # Off by default in V0, and the reset of a cache that is off cannot be tested.
        "enable_prefix_caching": True,
        "seed": 0,
        # Its buffers are registered outside the pool that sleep mode frees.
        "disable_custom_all_reduce": True,
        "disable_log_stats": True,
        **graphs(mode == "eager"),
        **extra,
    }


def graphs(eager: bool) -> dict[str, Any]:
    """The argument of vllm.LLM that names the sizes of CUDA graphs; none for an engine without graphs."""
    return {} if eager else {"compilation_config": {"cudagraph_capture_sizes": list(CAPTURED)}}


class Vllm:
    """The colocated vLLM engine of one rank."""

    def __init__(self, **llm: Any) -> None:
        import torch

        self._graphs = _watch_replays(torch.cuda.CUDAGraph)
        from vllm import LLM

        self._llm = LLM(**llm)
        # Read from the live object: VLLM_USE_V1 is only a request, and vLLM falls back to V0 for what V1 cannot do.
        self.kind = "V1" if type(self._llm.llm_engine).__module__.startswith("vllm.v1.") else "V0"
        self._worker = _unwrapped(self._llm.llm_engine.model_executor.driver_worker)
        self._runner = self._worker.model_runner
        self._model = self._runner.model
        self.vocabulary = int(self._llm.llm_engine.model_config.get_vocab_size())
        self.tokenizer = len(self._llm.get_tokenizer())

    @staticmethod
    def architectures() -> Collection[str]:
        """See Engine."""
        from vllm import ModelRegistry

        return set(ModelRegistry.get_supported_archs())

    def generate(self, prompts: Sequence[tuple[int, ...]], request: Request) -> list[list[Generated]]:
        """See Engine. Every sampling parameter is given: generation_config.json must not change the distribution."""
        import torch
        from vllm import SamplingParams

        torch.manual_seed(request.seed)  # the engine samples from the global generator, which the trainer uses as well
        sampling = SamplingParams(
            n=request.n,
            temperature=request.how.temperature,
            top_p=request.how.top_p,
            top_k=-1,
            min_p=0.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            repetition_penalty=1.0,
            seed=None,
            stop=None,
            ignore_eos=True,
            max_tokens=request.new,
            min_tokens=0,
            logprobs=request.top,
            prompt_logprobs=None,
            detokenize=False,
            skip_special_tokens=False,
        )
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self._llm.generate(asked, sampling, use_tqdm=False)
        return [
            [_generated(answer.prompt_token_ids, output, request.top) for output in answer.outputs]
            for answer in answers
        ]

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """See Engine."""
        import torch

        self._model.load_weights(iter(weights))
        torch.cuda.synchronize()

    def reset_prefix_cache(self) -> None:
        """See Engine."""
        self._llm.reset_prefix_cache()

    def sleep(self) -> None:
        """See Engine. Level 1: weights are kept on the CPU, keys and values are dropped."""
        self._llm.sleep(level=1)

    def wake(self) -> None:
        """See Engine."""
        self._llm.wake_up()

    def memory(self, per_process: bool) -> float:
        """See Engine."""
        return memory.used(per_process)

    def parameters(self) -> dict[str, torch.Tensor]:
        """See Engine."""
        return dict(self._model.named_parameters())

    def placement(self) -> dict[str, int]:
        """See Engine."""
        import torch
        from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size

        device = next(iter(self._model.parameters())).device
        return {
            "engine_rank": int(self._worker.rank),
            "device": int(device.index),
            "current_device": torch.cuda.current_device(),
            "tp_rank": get_tensor_model_parallel_rank(),
            "tp_size": get_tensor_model_parallel_world_size(),
        }

    def ordered(self) -> bool:
        """See Engine. vLLM remembers what torch.cuda.set_stream was given, and FSDP's backward sets streams as well."""
        import torch

        return bool(names.first(names.CURRENT_STREAM)() == torch.cuda.current_stream())

    def replays(self) -> int:
        """See Engine."""
        return self._graphs.replayed

    @contextmanager
    def stale_graphs(self) -> Iterator[None]:
        """See Engine. Skipping a replay is the same as computing the last input again: the buffers keep their contents."""
        self._graphs.held = True
        try:
            yield
        finally:
            self._graphs.held = False

    @contextmanager
    def eager(self) -> Iterator[None]:
        """See Engine. V0 asks model_config at every batch; V1 asks its runner or the dispatcher, and the compiled module."""
        switches: list[tuple[Any, str, bool]] = [(self._runner.model_config, "enforce_eager", True)]
        if hasattr(self._runner, "use_cuda_graph"):
            switches.append((self._runner, "use_cuda_graph", False))
        if hasattr(self._runner, "cudagraph_dispatcher"):  # from 0.11 on
            switches.append((self._runner.cudagraph_dispatcher, "keys_initialized", False))
        switches += [
            (part, "do_not_compile", True) for part in self._model.modules() if hasattr(part, "do_not_compile")
        ]
        before = [getattr(thing, name) for thing, name, _ in switches]
        for thing, name, value in switches:
            setattr(thing, name, value)
        try:
            yield
        finally:
            for (thing, name, _), value in zip(switches, before, strict=True):
                setattr(thing, name, value)


def _unwrapped(worker: Any) -> Any:
    """The worker itself: V0 and V1 both keep it inside a wrapper that passes unknown attributes on."""
    return getattr(worker, "worker", worker)


@dataclass
class _Graphs:
    """What CUDA graphs did in this process: how many were replayed, and whether they are kept from running."""

    replayed: int = 0
    held: bool = False


def _watch_replays(graph: Any) -> _Graphs:
    """Wrap CUDAGraph.replay, the one place that both V0 and V1 go through."""
    state = _Graphs()
    replay = graph.replay

    def watched(self: Any) -> Any:
        state.replayed += 1
        return None if state.held else replay(self)

    graph.replay = watched
    return state


def _generated(prompt: Sequence[int], output: Any, top: int) -> Generated:
    tokens = tuple(int(token) for token in output.token_ids)
    # A missing logprob becomes NaN, which no gate passes.
    logprobs = tuple(
        float(at[token].logprob) if token in at else math.nan for token, at in zip(tokens, output.logprobs, strict=True)
    )
    likely = tuple(
        {
            int(token): float(entry.logprob)
            for token, entry in sorted(at.items(), key=lambda item: -item[1].logprob)[:top]
        }
        for at in (output.logprobs if top else ())
    )
    return Generated(tuple(prompt), tokens, logprobs, likely)
