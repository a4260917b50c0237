"""Names in vLLM that moved between its releases: each is looked up by what exists, newest first."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

# (where it is, the releases in which it was seen there)
CURRENT_STREAM = (
    ("vllm.utils.torch_utils:current_stream", "0.11 to 0.24"),
    ("vllm.utils:current_stream", "0.7 to 0.8"),
)
KERNELS = (("vllm._C_stable_libtorch", "0.24"), ("vllm._C", "0.7 to 0.12"))


def first(places: Sequence[tuple[str, str]]) -> Any:
    """The object at the first of some places, `module:name`, that is there. Raises ImportError where none is."""
    module, _, name = place(places).partition(":")
    return getattr(importlib.import_module(module), name)


def place(places: Sequence[tuple[str, str]]) -> str:
    """The first of some places whose module is there, else the last of them."""
    return next((each for each, _ in places if there(each.partition(":")[0])), places[-1][0])


def there(module: str) -> bool:
    """Is there such a module? Its packages are imported, itself it is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
