"""A tiny Qwen2 with random weights and its tokenizer, made on the spot: nothing is downloaded.

512 hidden, 4 layers, 8 heads of 64 (the smallest head vLLM's attention kernels take), 2 KV heads (so that two tensor
parallel ranks get one each), 4096 tokens. Weights are drawn on the CPU from a fixed seed: all runs have the same model.

As drawn, its logits have a standard deviation of 0.45, and its distribution is almost uniform: a wrong temperature would hardly
show. A larger output layer brings that to 1.0. Beyond that, more tokens test the sampler just as well, and rounding errors in
bf16 grow.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

VOCABULARY = 4096
WIDTH = 512
BOS, EOS = 0, 1
END = "<|im_end|>"
SEED = 0
SHARPER = 2.2  # the output layer is multiplied by this
# One line is enough for verl: it only has to render a chat as text.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def ensure(folder: Path, make: Callable[[Path], None] | None = None) -> None:
    """Let `make` write a folder (by default the checkpoint) unless an earlier launch did; an existing folder is complete."""
    if folder.exists():
        return
    beside = folder.with_name(folder.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    (make or write)(beside)
    beside.rename(folder)


def write(folder: Path) -> None:
    """Write config, bf16 weights and tokenizer into `folder` as a Hugging Face checkpoint."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        torch_dtype="bfloat16",
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(SEED)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(SHARPER)
    model.to(torch.bfloat16).save_pretrained(folder)
    for place in (folder, tokenizer(folder)):  # verl 0.3 and 0.4 look for it in the checkpoint
        write_tokenizer(place)


def tokenizer(folder: Path) -> Path:
    """A folder with the tokenizer alone: beside a config.json transformers 5 would take another class for it, Qwen2's own."""
    return folder / "tokenizer"


def write_tokenizer(folder: Path, size: int = VOCABULARY) -> None:
    """Write a word-level tokenizer: `<bos>`, Qwen's `<|im_end|>`, then `w2` ... `w4095`, a word per id, `size` in all."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<bos>": BOS, END: EOS, **{f"w{i}": i for i in range(2, size)}}
    words_only = Tokenizer(models.WordLevel(words, unk_token="<bos>"))
    # Splitting at white space alone would leave `<bos>` whole as well; Whitespace also splits at punctuation, which no word has.
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    words_only.normalizer = normalizers.Replace("\n", " w2 ")  # verl 0.9 wants one token for it, as Qwen2's tokenizer has
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_only, bos_token="<bos>", eos_token=END, unk_token="<bos>", pad_token=END
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def prompts(label: str, count: int, length: int, vocabulary: int = VOCABULARY) -> list[tuple[int, ...]]:
    """Random prompts, `count` of `length` ids; the label seeds them, so that no two gates share a prompt by accident."""
    draw = random.Random(f"{SEED}/{label}")
    return [tuple(draw.randrange(2, vocabulary) for _ in range(length)) for _ in range(count)]
