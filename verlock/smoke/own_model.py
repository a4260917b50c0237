"""A model of the user's own in the place of the tiny one: whether this environment can run it, and how its engine is started."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from verlock.smoke import model, rollout
from verlock.smoke.report import Refused

BLOCK = 16  # tokens; vLLM's smallest block of keys and values
# A Hugging Face tokenizer has one of these; tokenizer_config.json alone holds no words.
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def admit(checkpoint: Path, known: Collection[str]) -> None:
    """Let a model pass that both the engine and transformers can run.

    Args:
        checkpoint: a Hugging Face folder.
        known: the architectures that the engine serves.

    Raises:
        Refused: one of them does not know its architecture.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, __version__

    named = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["architectures"]
    if not set(named) & set(known):
        raise Refused(
            f"this environment's vLLM does not serve {' or '.join(named)}, the architecture of {checkpoint}",
            "take a variant with a newer vLLM, or a model of another architecture",
        )
    try:
        # a class, or several of them
        found = MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(checkpoint))]
    except (ValueError, KeyError):  # a model_type that it has never heard of, or one without such a model
        found = ()
    classes = found if isinstance(found, tuple) else (found,)
    if not {each.__name__ for each in classes} & set(
        named
    ):  # BertModel, say, is of a type that has one, and is none itself
        raise Refused(
            f"transformers {__version__} has no causal language model for {' or '.join(named)}, the architecture of {checkpoint}",
            "take a variant with a newer transformers, or a model of another architecture",
        )


def tokenizer(checkpoint: Path, scratch: Path) -> Path:
    """The folder of the model's tokenizer: its own, or else `scratch`, where `ensure_tokenizer` writes one."""
    return checkpoint if any((checkpoint / name).is_file() for name in TOKENIZERS) else scratch


def ensure_tokenizer(checkpoint: Path, scratch: Path) -> None:
    """For a model that has no tokenizer, write a word-level one of its size into `scratch`, unless it is there."""
    if tokenizer(checkpoint, scratch) == checkpoint:
        return
    from transformers import AutoConfig

    size = int(AutoConfig.from_pretrained(checkpoint).vocab_size)
    model.ensure(scratch, lambda folder: model.write_tokenizer(folder, size))


def arguments(checkpoint: Path, scratch: Path) -> dict[str, Any]:
    """The arguments of vllm.LLM that differ from those for the tiny model.

    Keys and values get room for the suite's largest batch at its full length, whatever one token of this model takes.
    """
    return {
        "tokenizer": str(tokenizer(checkpoint, scratch)),
        "num_gpu_blocks_override": rollout.MAX_SEQUENCES * rollout.MAX_LENGTH // BLOCK,
    }
