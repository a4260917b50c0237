"""A rollout engine for the CPU with the failures a real one can have: it keeps its own weights and a real prefix cache.

It stands where vLLM stands, in tests alone: `verlock smoke` has no way to ask for it. Weights go in under Hugging Face
names and stay there until the next `load`; keys and values of a prompt's prefix stay until the cache is reset, whatever
weights they came from.
"""

from __future__ import annotations

import copy
import os
from contextlib import contextmanager

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from verlock.smoke.rollout import Generated
from verlock.smoke.shards import shards_of

BLOCK = 16
BATCH = 32


def distribution(scores, how):
    """The probabilities that vLLM draws from: at a temperature, cut off by top_p."""
    p = torch.softmax(scores / how.temperature, dim=-1)
    ranked, order = p.sort(dim=-1, descending=True)
    return torch.zeros_like(p).scatter(-1, order, ranked * (ranked.cumsum(-1) - ranked < how.top_p))


class RehearsalEngine:
    @staticmethod
    def architectures():
        return {"Qwen2ForCausalLM", "LlamaForCausalLM", "BertModel"}

    def __init__(self, *, model, tokenizer, tensor_parallel_size, enforce_eager, fail="", loses_bits=False, **llm):
        if fail:
            raise RuntimeError(fail)
        self.kind = "V1" if os.environ.get("VLLM_USE_V1") == "1" else "V0"
        self.rank, self.tp = int(os.environ["RANK"]), tensor_parallel_size
        self.model = AutoModelForCausalLM.from_pretrained(model, torch_dtype=torch.float32).eval()
        self.tokenizer = len(AutoTokenizer.from_pretrained(tokenizer))
        self.vocabulary = self.model.config.vocab_size
        self.cache = {}
        self.graphs = not enforce_eager
        self.replayed = 0
        self.asleep = self.stale = False
        self.loses_bits = loses_bits

    @torch.no_grad()
    def generate(self, prompts, request):
        assert not self.asleep
        draw = torch.Generator().manual_seed(request.seed)
        if len(prompts) > BATCH:  # gate 11 asks for many tokens, and for nothing that a cache could spoil
            return [[each] for each in self._many(prompts, request.new, request.how, draw)]
        new, how, top = request.new, request.how, request.top
        return [[self._one(prompt, new, how, top, draw) for _ in range(request.n)] for prompt in prompts]

    def _many(self, prompts, new, how, draw):
        left, past, tokens, logprobs = torch.tensor(prompts), None, [], []
        for _ in range(new):
            answer = self.model(left, past_key_values=past, use_cache=True)
            past = answer.past_key_values
            scores = torch.log_softmax(answer.logits[:, -1].float(), dim=-1)
            left = torch.multinomial(distribution(scores, how), 1, generator=draw)
            tokens.append(left)
            logprobs.append(scores.gather(-1, left))
        columns = zip(prompts, torch.cat(tokens, 1).tolist(), torch.cat(logprobs, 1).tolist(), strict=True)
        return [Generated(prompt, tuple(ids), tuple(values)) for prompt, ids, values in columns]

    def _one(self, prompt, new, how, top, draw):
        prefix = prompt[: (len(prompt) - 1) // BLOCK * BLOCK]
        if prefix not in self.cache:
            self.cache[prefix] = self.model(torch.tensor([prefix]), use_cache=True).past_key_values
        past = copy.deepcopy(self.cache[prefix])
        assert isinstance(past, DynamicCache)
        left = prompt[len(prefix) :]
        tokens, logprobs, likely = [], [], []
        for position in range(new):
            answer = self.model(torch.tensor([left]), past_key_values=past, use_cache=True)
            past = answer.past_key_values
            if not (self.stale and self.graphs and position):
                self.scores = torch.log_softmax(answer.logits[0, -1].float(), dim=-1)
            scores = self.scores
            if how.temperature:
                token = int(torch.multinomial(distribution(scores, how), 1, generator=draw))
            else:
                token = int(scores.argmax())
            tokens.append(token)
            logprobs.append(float(scores[token]))
            likely.append({int(i): float(scores[i]) for i in scores.topk(top).indices} if top else {})
            left = (token,)
            self.replayed += self.graphs and position > 0
        return Generated(prompt, tuple(tokens), tuple(logprobs), tuple(likely) if top else ())

    def load(self, weights):
        self.model.load_state_dict(dict(weights), strict=True)

    def reset_prefix_cache(self):
        self.cache.clear()

    def sleep(self):
        self.asleep = True
        self.cache.clear()

    @torch.no_grad()
    def wake(self):
        self.asleep = False
        if self.loses_bits:
            next(iter(self.model.parameters()))[0, 0] += 1e-6

    def memory(self, per_process):
        return 1.5 if self.asleep else 25.0

    def parameters(self):
        return shards_of(self.model.state_dict(), self.rank % self.tp, self.tp)

    def placement(self):
        return {
            "engine_rank": self.rank,
            "device": int(os.environ["LOCAL_RANK"]),
            "current_device": int(os.environ["LOCAL_RANK"]),
            "tp_rank": self.rank % self.tp,
            "tp_size": self.tp,
        }

    def ordered(self):
        return True

    def replays(self):
        return self.replayed

    @contextmanager
    def stale_graphs(self):
        self.stale = True
        yield
        self.stale = False

    @contextmanager
    def eager(self):
        before, self.graphs = self.graphs, False
        yield
        self.graphs = before
