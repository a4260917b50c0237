"""Whether data read from a JSON or YAML file has the shape that is asked of it; more than that may be there.

A shape is a type; None; a tuple of shapes, one of which must fit; a list with the shape of every item; or a dict of shapes by
key, where `EACH` stands for every key and a key that is not there counts as None.
"""

from __future__ import annotations

from typing import Any

EACH = "*"


def fits(value: Any, shape: Any) -> bool:
    """Whether `value` has this shape."""
    if shape is None or isinstance(shape, type):
        return value is None if shape is None else isinstance(value, shape)
    if isinstance(shape, tuple):
        return any(fits(value, each) for each in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    if not isinstance(value, dict):
        return False
    if EACH in shape:
        return all(fits(item, shape[EACH]) for item in value.values())
    return all(fits(value.get(key), each) for key, each in shape.items())
