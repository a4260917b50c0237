"""Which of flash-attn's kernels a wheel has, in words: a site's own wheel often has only a few. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DTYPES = {"float16": "fp16", "bfloat16": "bf16"}
HEADS = (32, 64, 96, 128, 160, 192, 224, 256)


def kernels_said(kernels: Mapping[str, Sequence[int]]) -> str:
    """What `facts.flash_attn_kernels` found, such as "partial: bf16, head 64 and 128".

    Empty if all of them work, and if none were tried (no GPU, no flash_attn).
    """
    if not kernels or all(set(HEADS) <= set(kernels.get(dtype, ())) for dtype in DTYPES):
        return ""
    parts = [f"{short}, head {_listed(kernels[dtype])}" for dtype, short in DTYPES.items() if kernels.get(dtype)]
    return f"partial: {'; '.join(parts)}" if parts else "partial: no kernel works"


def _listed(heads: Sequence[int]) -> str:
    *most, last = map(str, sorted(heads))
    return f"{', '.join(most)} and {last}" if most else last
