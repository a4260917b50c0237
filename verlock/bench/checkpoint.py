"""A model folder that vLLM starts from with `load_format="dummy"`: a configuration and a tokenizer, no weights."""

from __future__ import annotations

import json
from pathlib import Path

from verlock.bench.shapes import Shape
from verlock.smoke.report import write_json

BOS, EOS = 0, 1
LONGEST = 32_768


def write(folder: Path, shape: Shape) -> None:
    """Write config.json into `folder`, and the tokenizer into `tokenizer(folder)`."""
    tokenizer(folder).mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", _config(shape))
    _write_tokenizer(tokenizer(folder), shape.vocabulary)


def tokenizer(folder: Path) -> Path:
    """The tokenizer's own folder: beside a config.json transformers 5 would take another class for it, Qwen2's own."""
    return folder / "tokenizer"


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": LONGEST,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "use_sliding_window": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A word per id (`<bos>`, `<eos>`, `w2` ...), for every id that the model can sample: text of n words is n tokens."""
    words = {"<bos>": BOS, "<eos>": EOS, **{f"w{i}": i for i in range(2, vocabulary)}}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": word, **flags} for word, number in (("<bos>", BOS), ("<eos>", EOS))],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<bos>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<bos>",
        "pad_token": "<eos>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": LONGEST,
    }
    write_json(folder / "tokenizer_config.json", said)
