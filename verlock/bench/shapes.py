"""The shapes of the models that are measured. Weights are random: how long a rollout takes depends on shapes alone.

Figures are those of the `config.json` of Qwen2-0.5B-Instruct, Qwen2-1.5B-Instruct and Qwen2-7B-Instruct.
"""

from __future__ import annotations

from dataclasses import dataclass

BYTES = 2  # of a bf16 number


@dataclass(frozen=True)
class Shape:
    """A Qwen2. `iterations` is how often a job is measured on it when nobody says how often: small models are quick."""

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    iterations: int = 5

    @property
    def head(self) -> int:
        """The size of an attention head."""
        return self.hidden // self.heads

    def weights(self) -> list[tuple[str, tuple[int, ...]]]:
        """Every weight under its Hugging Face name, with its dimensions; a tied output layer is not listed."""
        kv = self.kv_heads * self.head
        layer = [
            ("self_attn.q_proj.weight", (self.hidden, self.hidden)),
            ("self_attn.q_proj.bias", (self.hidden,)),
            ("self_attn.k_proj.weight", (kv, self.hidden)),
            ("self_attn.k_proj.bias", (kv,)),
            ("self_attn.v_proj.weight", (kv, self.hidden)),
            ("self_attn.v_proj.bias", (kv,)),
            ("self_attn.o_proj.weight", (self.hidden, self.hidden)),
            ("mlp.gate_proj.weight", (self.intermediate, self.hidden)),
            ("mlp.up_proj.weight", (self.intermediate, self.hidden)),
            ("mlp.down_proj.weight", (self.hidden, self.intermediate)),
            ("input_layernorm.weight", (self.hidden,)),
            ("post_attention_layernorm.weight", (self.hidden,)),
        ]
        found: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens.weight", (self.vocabulary, self.hidden))]
        found += [(f"model.layers.{i}.{name}", dims) for i in range(self.layers) for name, dims in layer]
        found.append(("model.norm.weight", (self.hidden,)))
        return found if self.tied else [*found, ("lm_head.weight", (self.vocabulary, self.hidden))]

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(size(dims) for _, dims in self.weights())

    @property
    def read_per_step(self) -> int:
        """Bytes of weights that every decode step reads: all, but of an embedding that is not the output layer only rows."""
        return (self.parameters - (0 if self.tied else self.vocabulary * self.hidden)) * BYTES

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that one token leaves in all layers."""
        return 2 * self.layers * self.kv_heads * self.head * BYTES

    @property
    def layer_parameters(self) -> int:
        """How many numbers the layers' weights are: without embedding and output layer."""
        return sum(size(dims) for name, dims in self.weights() if name.startswith("model.layers."))


def size(dims: tuple[int, ...]) -> int:
    """How many numbers a weight of these dimensions is."""
    total = 1
    for each in dims:
        total *= each
    return total


SHAPES = {
    each.name: each
    for each in (
        Shape("0.5b", 896, 4864, 24, 14, 2, 151_936, tied=True, iterations=20),
        Shape("1.5b", 1536, 8960, 28, 12, 2, 151_936, tied=True, iterations=10),
        Shape("7b", 3584, 18944, 28, 28, 4, 152_064, tied=False, iterations=5),
    )
}
