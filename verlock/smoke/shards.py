"""Which part of a Qwen2 weight each tensor parallel rank holds, and under which name vLLM keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_ROWS = ("embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_COLUMNS = ("o_proj", "down_proj")
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def _axis(name: str) -> int | None:
    """Along which axis tensor parallelism cuts a Hugging Face weight; None where every rank holds it whole."""
    layer = name.split(".")[-2]
    return 0 if layer in _ROWS else 1 if layer in _COLUMNS else None


def shards_of(weights: dict[str, torch.Tensor], tp_rank: int, tp: int) -> dict[str, torch.Tensor]:
    """What one tensor parallel rank holds of a Qwen2, under vLLM's names; there q, k, v are one parameter, and so are gate, up.

    Args:
        weights: whole weights under Hugging Face names. `tp` must divide the KV heads and the vocabulary.
        tp_rank, tp: which rank, of how many.
    """
    import torch

    mine = {}
    for name, value in weights.items():
        axis = _axis(name)
        mine[name] = value if axis is None else value.chunk(tp, dim=axis)[tp_rank]
    for fused, parts in _FUSED.items():
        for first in [name for name in mine if f".{parts[0]}." in name]:
            pieces = [mine.pop(first.replace(parts[0], part)) for part in parts]
            mine[first.replace(parts[0], fused)] = torch.cat(pieces)
    return mine


def neighbour_half(name: str, value: torch.Tensor) -> torch.Tensor:
    """The weight with its halves swapped along the sharded axis: at TP=2, the neighbour's half."""
    axis = _axis(name)
    return value if axis is None else value.roll(value.shape[axis] // 2, dims=axis)
