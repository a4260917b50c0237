"""The trainer: FSDP over all ranks, fp32 master weights, bf16 compute, AdamW, a policy-gradient loss on a toy reward."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verlock.smoke.model import VOCABULARY, WIDTH

if TYPE_CHECKING:
    import torch

    from verlock.smoke.rollout import Generated

# For the tiny model. AdamW moves every weight by about this much, and so a layer's output by this much times the width: a model
# of another width gets the rate that moves its outputs as far.
LEARNING_RATE = 1e-3
NUCLEUS = 0.95
# Sequences in one forward where all their logits are needed: 32 x 64 x 4096 in fp32 are 32 MiB. Fewer for a larger vocabulary.
AT_ONCE = 32


@dataclass(frozen=True)
class Step:
    """One optimizer step: loss and the gradients' norm before clipping; `taken` is false if they were not finite."""

    loss: float
    grad_norm: float
    taken: bool


class Trainer:
    """The actor of one rank. Calls are collective: every rank makes the same ones in the same order."""

    def __init__(self, checkpoint: Path, device: torch.device) -> None:
        import torch
        from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
        from transformers import AutoModelForCausalLM

        self._device = device
        # without attn_implementation transformers takes sdpa wherever the architecture has it
        model = AutoModelForCausalLM.from_pretrained(checkpoint, torch_dtype=torch.float32)
        vocabulary, width = model.get_input_embeddings().weight.shape
        self._rate = LEARNING_RATE * WIDTH / width
        self._at_once = max(AT_ONCE * VOCABULARY // vocabulary, 1)
        # On the CPU (rehearsals) every rank holds all weights, since FSDP's backward needs reduce_scatter, which gloo does not
        # have; and it computes in fp32, since a CPU without instructions for bf16 is 30 times slower at it.
        on_gpu = device.type == "cuda"
        self._fsdp = FullyShardedDataParallel(
            model.to(device),
            sharding_strategy=ShardingStrategy.FULL_SHARD if on_gpu else ShardingStrategy.NO_SHARD,
            mixed_precision=MixedPrecision(
                param_dtype=torch.bfloat16 if on_gpu else torch.float32,
                reduce_dtype=torch.float32,
                buffer_dtype=torch.float32,
            ),
            use_orig_params=True,
            device_id=device,
        )
        with self._whole():
            self._initial = [parameter.detach().to("cpu", copy=True) for parameter in self._fsdp.parameters()]
        self._optimizer = self._new_optimizer()

    def _new_optimizer(self) -> Any:
        import torch

        return torch.optim.AdamW(self._fsdp.parameters(), lr=self._rate)

    def reset(self) -> None:
        """Back to the initial weights, with a fresh optimizer."""
        import torch

        with self._whole(), torch.no_grad():
            for parameter, initial in zip(self._fsdp.parameters(), self._initial, strict=True):
                parameter.copy_(initial)
        self._optimizer = self._new_optimizer()

    def moved(self) -> float:
        """The largest change of a parameter since the start; NaN if one is not finite."""
        largest = 0.0
        with self._whole():
            for parameter, initial in zip(self._fsdp.parameters(), self._initial, strict=True):
                change = float((parameter.detach() - initial.to(self._device)).abs().max())
                largest = max(largest, change) if math.isfinite(change) else math.nan
        return largest

    def _whole(self) -> AbstractContextManager[None]:
        """Inside, every rank holds all fp32 weights and may write them. Writing to FSDP's own shards would miss the full bf16
        copy that its root keeps from the last forward."""
        from torch.distributed.fsdp import FullyShardedDataParallel

        context: AbstractContextManager[None] = FullyShardedDataParallel.summon_full_params(self._fsdp, writeback=True)
        return context

    def logprobs(self, sequences: Sequence[Generated]) -> list[float]:
        """The logprob of every generated token, one flat list in the order of the sequences."""
        import torch

        with torch.no_grad():
            return [float(value) for value in self._logprobs(sequences).flatten().tolist()]

    def top(self, sequences: Sequence[Generated], k: int) -> list[list[list[int]]]:
        """Per sequence and generated token, the `k` most likely ids."""
        import torch

        with torch.no_grad():
            found: list[list[list[int]]] = self._logits(sequences).topk(k, dim=-1).indices.tolist()
        return found

    def draws(self, sequences: Sequence[Generated]) -> dict[str, float]:
        """Statistics of the sampled tokens under this trainer's distributions, as sums: see `gates.sampler`."""
        import torch

        total = dict.fromkeys(("tokens", "score", "variance", "outside", "expected", "spread"), 0.0)
        for start in range(0, len(sequences), self._at_once):
            batch = sequences[start : start + self._at_once]
            with torch.no_grad():
                log = torch.log_softmax(self._logits(batch).double(), dim=-1)
            tokens = torch.tensor([each.tokens for each in batch], device=self._device)
            p = log.exp()
            entropy = -(p * log).sum(-1)
            ranked, order = p.sort(dim=-1, descending=True)
            inside = ranked.cumsum(-1) - ranked < NUCLEUS  # the smallest set of tokens with this probability
            beyond = (ranked * ~inside).sum(-1)
            drawn_inside = (inside & (order == tokens[..., None])).any(-1)
            sums = {
                "tokens": torch.ones_like(entropy),
                "score": log.gather(-1, tokens[..., None]).squeeze(-1) + entropy,
                "variance": (p * log**2).sum(-1) - entropy**2,
                "outside": (~drawn_inside).double(),
                "expected": beyond,
                "spread": beyond * (1 - beyond),
            }
            for name, values in sums.items():
                total[name] += float(values.sum())
        return total

    @contextmanager
    def one_layer_off(self) -> Iterator[None]:
        """Inside, the forward skips the last layer."""
        inner = self._fsdp.module.model
        layers = inner.layers
        inner.layers = layers[:-1]
        try:
            yield
        finally:
            inner.layers = layers

    def train(self, sequences: Sequence[Generated], steps: int, poisoned: int | None = None) -> list[Step]:
        """Take `steps` policy-gradient steps on one batch; the reward is the share of even ids.

        A step whose gradients are not finite is not taken, as in verl's actor; `poisoned` is the step whose loss is made NaN.
        """
        import torch

        even = torch.tensor([[token % 2 == 0 for token in each.tokens] for each in sequences], device=self._device)
        reward = even.float().mean(dim=1)
        advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
        history = []
        for step in range(steps):
            loss = -(self._logprobs(sequences) * advantage[:, None]).mean()
            if step == poisoned:
                loss = loss * math.nan
            loss.backward()
            norm = float(self._fsdp.clip_grad_norm_(1.0))
            finite = math.isfinite(norm)
            if finite:
                self._optimizer.step()
            self._optimizer.zero_grad()
            history.append(Step(float(loss.detach()), norm, finite))
        return history

    def weights(self) -> dict[str, torch.Tensor]:
        """All weights, whole, in bf16, under their Hugging Face names, on this rank's device."""
        import torch
        from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

        whole = FullStateDictConfig(offload_to_cpu=False, rank0_only=False)
        with FullyShardedDataParallel.state_dict_type(self._fsdp, StateDictType.FULL_STATE_DICT, whole):
            state = self._fsdp.state_dict()
        return {name: value.detach().to(torch.bfloat16) for name, value in state.items()}

    def _logprobs(self, sequences: Sequence[Generated]) -> torch.Tensor:
        import torch

        tokens = torch.tensor([each.tokens for each in sequences], device=self._device)
        return torch.log_softmax(self._logits(sequences), dim=-1).gather(-1, tokens[..., None]).squeeze(-1)

    def _logits(self, sequences: Sequence[Generated]) -> torch.Tensor:
        """fp32 logits before each generated token: (sequences, new tokens, vocabulary). All sequences have one shape."""
        import torch

        ids = torch.tensor([[*each.prompt, *each.tokens] for each in sequences], device=self._device)
        new = len(sequences[0].tokens)
        logits: torch.Tensor = self._fsdp(input_ids=ids).logits
        return logits[:, -new - 1 : -1].float()
