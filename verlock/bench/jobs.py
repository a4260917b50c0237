"""The work that is measured: how many prompts, how long, how many continuations. Data, and the prompts that it draws by seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST_ID = 2  # the ids before it begin and end a text
ROLLOUT, COSTS, PROFILE, UPSTREAM = "rollout", "costs", "profile", "upstream"
MODES = ("eager", "graphs")


@dataclass(frozen=True)
class Job:
    """One kind of cell.

    Attributes:
        name: in results and on the command line.
        says: what it is, in a few words.
        kind: ROLLOUT is timed generation; COSTS what a training loop pays beside it; PROFILE one traced rollout; UPSTREAM
            vLLM's own benchmark.
        prompts: how many.
        n: continuations per prompt.
        prompt: tokens of a prompt, the mean where lengths are drawn.
        new: tokens of a continuation, the mean where lengths are drawn.
        longest: where not 0, lengths are drawn by seed from a log-normal distribution with these means, and end here.
        logprobs: ask for the logprob of each sampled token, as verl does.
        text: also turn the tokens into text, as vLLM's own benchmark does.
        iterations: how often, where not 0; else the shape says.
        shapes, modes: where it is measured when it is not asked for by name.
        asked: measured only when asked for by name.
    """

    name: str
    says: str
    kind: str = ROLLOUT
    prompts: int = 256
    n: int = 1
    prompt: int = 256
    new: int = 512
    longest: int = 0
    logprobs: bool = True
    text: bool = False
    iterations: int = 0
    shapes: tuple[str, ...] = ("0.5b", "1.5b", "7b")
    modes: tuple[str, ...] = MODES
    asked: bool = False

    def lengths(self, iteration: int) -> list[tuple[int, int]]:
        """For each prompt, its tokens and the tokens of each of its continuations."""
        if not self.longest:
            return [(self.prompt, self.new)] * self.prompts
        draw = random.Random(f"lengths/{self.name}/{iteration}")
        return [
            (_drawn(draw, self.prompt, self.longest), _drawn(draw, self.new, self.longest)) for _ in range(self.prompts)
        ]

    def asks(self, iteration: int, vocabulary: int) -> list[tuple[list[int], int]]:
        """For each prompt its ids, and the new tokens of each continuation: the same for all engines, others every iteration."""
        draw = random.Random(f"prompts/{self.name}/{iteration}")
        return [(draw.choices(range(FIRST_ID, vocabulary), k=ids), new) for ids, new in self.lengths(iteration)]

    def tokens(self, iteration: int) -> int:
        """New tokens of one iteration, all continuations together."""
        return sum(new for _, new in self.lengths(iteration)) * self.n


# Of the log-normal distribution: half of the lengths lie between 0.62 and 1.6 times the median.
SPREAD = 0.7


def _drawn(draw: random.Random, mean: float, longest: int) -> int:
    """A length; exp(SPREAD**2 / 2) is how far the mean of a log-normal distribution lies above its median."""
    return max(1, min(longest, round(mean * draw.lognormvariate(0.0, SPREAD) / 1.2776)))


# What `script` is and is not: examples/ppo_trainer/run_qwen2-7b_seq_balance.sh at verl v0.3.0.post1, scaled to one GPU.
SCRIPT_DIFFERS = (
    "512 prompts on one GPU: the script has 4096 on 8",
    "TP=1, the script has 2: so each GPU reads all weights, and waits for no other",
    "random prompts of drawn lengths (mean 128 tokens, log-normal, up to 4096) for those of GSM8K and MATH: a question of one "
    "or two sentences with the chat template around it; not counted on the data",
    "every answer has a drawn length (mean 384 tokens, log-normal, up to 4096) for an end that the model chooses: about 200 "
    "tokens for GSM8K and 500 for MATH; an assumption, since the document names no length. Its 85 s would be about 730 tokens "
    "each at the 4,400 tokens/s first read with V0 eager on one H100",
    "dummy weights, no training and no other model on the GPU",
)

JOBS = {
    job.name: job
    for job in (
        Job("n1", "256 prompts, one continuation each"),
        Job("n8", "32 prompts, eight continuations each", prompts=32, n=8),
        Job("no-logprobs", "as n1, without logprobs", logprobs=False, shapes=("7b",), modes=("graphs",)),
        Job(
            "text",
            "as n1, without logprobs, with text: what vLLM's own benchmark does",
            logprobs=False,
            text=True,
            shapes=("7b",),
            modes=("graphs",),
        ),
        Job(
            "script",
            "verl's 7B PPO example, scaled to one GPU",
            prompts=512,
            prompt=128,
            new=384,
            longest=4096,
            iterations=3,
            shapes=("7b",),
        ),
        Job("costs", "weight sync, sleep and wake, CUDA graph capture, engine start", kind=COSTS, modes=("graphs",)),
        Job("profile", "where the time of n1 goes, 64 tokens each", kind=PROFILE, new=64, asked=True),
        Job(
            "upstream",
            "vLLM's own throughput benchmark, the same work as `text`",
            kind=UPSTREAM,
            logprobs=False,
            text=True,
            iterations=1,
            shapes=("7b",),
            modes=("graphs",),
        ),
    )
}
