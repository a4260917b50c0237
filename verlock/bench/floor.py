"""How fast a rollout could be at best on a card whose copy bandwidth and matrix throughput were measured.

Each step of decoding reads all weights, and the keys and values of every sequence; and all tokens, those of the prompts too, are
multiplied with the weights. A rollout takes at least as long as the slower of the two: at 256 sequences on an H100 both take
about as long. The continuations of one prompt share its pass. Nothing else is counted: no sampling, no communication, no
Python. So an engine that computes these tokens in bf16, one a step, can be faster only as far as memory is read faster than
it is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verlock.bench.shapes import Shape


@dataclass(frozen=True)
class Floor:
    """Seconds at least: the longer one of `reading`, and of multiplying: `prefill` the prompts, then `decoding`."""

    prefill: float
    reading: float
    decoding: float

    @property
    def seconds(self) -> float:
        """The floor itself."""
        return max(self.reading, self.prefill + self.decoding)


def of(shape: Shape, asks: Sequence[tuple[int, int]], n: int, slots: int, hardware: dict[str, float]) -> Floor:
    """The floor of one rollout.

    Args:
        shape: the model.
        asks: for each prompt its tokens, and the new tokens of each continuation.
        n: continuations per prompt.
        slots: how many sequences the engine decodes at once, at most.
        hardware: `copy_gb_s`, bytes read and written over seconds, in 1e9; `matmul_tflops`, in 1e12.
    """
    bandwidth, flops = hardware["copy_gb_s"] * 1e9, hardware["matmul_tflops"] * 1e12
    # The first new token comes out of the prompt's own pass.
    decoded = sum(new - 1 for _, new in asks) * n
    steps = max(-(-decoded // slots), *(new - 1 for _, new in asks))
    seen = n * sum(_past(prompt, new) for prompt, new in asks)
    reading = (steps * shape.read_per_step + seen * shape.kv_bytes) / bandwidth
    head = 2 * shape.vocabulary * shape.hidden
    dense = 2 * shape.layer_parameters
    attention = 4 * shape.layers * shape.hidden  # for a token and each token that it looks at: scores, then values
    decoding = (decoded * (dense + head) + seen * attention) / flops
    prompts = sum(prompt for prompt, _ in asks)
    pairs = sum(prompt * (prompt + 1) // 2 for prompt, _ in asks)
    return Floor((prompts * dense + len(asks) * head + pairs * attention) / flops, reading, decoding)


def _past(prompt: int, new: int) -> int:
    """Tokens whose keys and values are read for one continuation: step k sees the prompt and k tokens, for k of 1 to new - 1."""
    return (new - 1) * prompt + new * (new - 1) // 2
