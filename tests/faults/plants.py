"""Planted defects: an edit of the product each, by which some rows of the table must turn red. The test of the test.

`nox -s faults -- --plant NAME` makes the edit in the toy's copy of verlock, never in the clone: file, old text, new text.
"""

from __future__ import annotations

PLANTS: dict[str, list[tuple[str, str, str]]] = {}
