"""Data that is bad in every way that hypothesis thinks of: a whole file with a few edits, and JSON with a value replaced."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

# pieces that mean something in one of the formats, and text of any kind
PIECES = st.sampled_from(
    [
        *("\n", "[[", "]", "{", "}", '"', "'", ":", "- ", "---\n", "+++ b/../x\n", "@@ -1 +1 @@\n"),
        *("==", "\\\n", "../", "/etc/x", "\0", "#"),
    ]
) | st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("../../outside"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def edited(draw: Any, text: str) -> str:
    """The text with one to three spans replaced by a piece."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + draw(st.sampled_from([0, 1, 8, 200])))))
        text = text[:start] + draw(PIECES) + text[end:]
    return text


@st.composite
def replaced(draw: Any, document: Any) -> Any:
    """A JSON document with one value in it replaced by another, or deleted; sometimes the whole document."""
    document = copy.deepcopy(document)
    places: list[tuple[Any, Any]] = []
    open_ = [document]
    while open_:
        value = open_.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
        places += [(value, key) for key in keys]
        open_ += [value[key] for key in keys]
    where, key = draw(st.sampled_from([(None, None), *places]))
    if where is None:
        return draw(JSON)
    if draw(st.booleans()):
        where[key] = draw(JSON)
    else:
        del where[key]
    return document
