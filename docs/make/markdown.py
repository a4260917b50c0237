"""How the generated parts write tables and words, so that GitHub and Sphinx read them alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. Every cell becomes one line; a `|` in it is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(text: str) -> str:
    """A text in the type of a program; nothing stays nothing."""
    return f"`{text}`" if text else ""


def words(text: str) -> str:
    """A text out of the program for a page: what looks like a tag or like emphasis is meant literally."""
    return re.sub(r"([*_<\[\]])(?=[^`]*(?:`[^`]*`[^`]*)*$)", r"\\\1", text)


def sentence(text: str) -> str:
    """With a capital letter and a full stop, as help texts and messages of the program do not have them."""
    text = text.strip()
    if re.match(r"[a-z]+ ", text):  # no file's name, nor a choice with what it means behind a colon
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?", ":")) else f"{text}."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
