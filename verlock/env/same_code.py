"""Is byte code what its source says? Run by the environment's own Python, so it imports nothing but the standard library.

Started as a script: reads a list of [byte code, source, level of optimisation] as JSON, compiles each source and compares.
Writes the list of verdicts: `same`; `other`; or `unused`, where Python itself would throw the byte code away.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import sys
import types
from collections.abc import Callable
from typing import Any

_HEADER = 16  # bytes: magic number, flags, then time and size of the source, or a hash of it


def verdict(byte_code: str, source: str, optimise: int) -> str:
    """`same`, `other` or `unused`, see above."""
    try:
        with open(byte_code, "rb") as file:  # noqa: PTH123 (this script starts in a blink without pathlib)
            data = file.read()
        with open(source, "rb") as file:  # noqa: PTH123
            text = file.read()
        status = os.stat(source)  # noqa: PTH116
    except OSError:
        return "unused"
    if len(data) < _HEADER or data[:4] != importlib.util.MAGIC_NUMBER:
        return "unused"
    if not int.from_bytes(data[4:8], "little"):  # made for a source of this time and size; else for one of a hash
        of = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
        if of != (int.from_bytes(data[8:12], "little"), int.from_bytes(data[12:16], "little")):
            return "unused"
    try:
        code = marshal.loads(data[_HEADER:])
        compiled = compile(text, source, "exec", dont_inherit=True, optimize=optimise)
        same = isinstance(code, types.CodeType) and form(code) == form(compiled)
    except Exception:  # whatever forged bytes lead to
        return "other"
    return "same" if same else "other"


def form(value: object) -> bytes:
    """Bytes that are the same for the same code, whoever compiled it, and wherever its source lay."""
    return marshal.dumps(_plain(value), 0)  # version 0 has no references, which depend on what else was in memory


def _plain(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        # the line table is for tracebacks only, and without columns where PYTHONNODEBUGRANGES was set
        return value.replace(co_filename="", co_linetable=b"", co_consts=tuple(map(_plain, value.co_consts)))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, frozenset):
        return ("frozenset", *sorted(form(each) for each in value))
    if isinstance(value, slice):
        return ("slice", *map(_plain, (value.start, value.stop, value.step)))
    return value


def main(read: Callable[[], str], write: Callable[[str], object]) -> None:
    """Answer one list."""
    write(json.dumps([verdict(*each) for each in json.loads(read())]))


if __name__ == "__main__":
    main(sys.stdin.read, sys.stdout.write)
