"""Which of flash-attn's kernels a wheel has: trying them, and saying it."""

from __future__ import annotations

import pytest

from verlock.smoke import facts
from verlock.smoke.kernels import HEADS, kernels_said

ALL = list(HEADS)


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ({}, ""),
        ({"float16": ALL, "bfloat16": ALL}, ""),
        ({"float16": [], "bfloat16": [64, 128]}, "partial: bf16, head 64 and 128"),
        ({"bfloat16": ALL}, "partial: bf16, head 32, 64, 96, 128, 160, 192, 224 and 256"),
        ({"float16": [64], "bfloat16": [128, 64]}, "partial: fp16, head 64; bf16, head 64 and 128"),
        ({"float16": [], "bfloat16": []}, "partial: no kernel works"),
    ],
)
def test_in_words(kernels, said):
    assert kernels_said(kernels) == said


def test_nothing_is_tried_without_a_gpu():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert facts.flash_attn_kernels() == {}
