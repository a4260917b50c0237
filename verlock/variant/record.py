"""RECORD, the list that a wheel brings of its files with their hashes: reading and writing its lines."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import NamedTuple

NAME = "RECORD"


class Row(NamedTuple):
    """One line: a path relative to site-packages (or absolute), and its hex sha256; empty where the line has no hash."""

    path: str
    sha256: str


def rows(lines: Iterable[str]) -> Iterator[Row]:
    """The lines of a RECORD, byte code left out: Python writes its own.

    Args:
        lines: an open file (with `newline=""`), or a text's lines.

    Raises:
        ValueError, csv.Error: a line is none of a RECORD's, or has another hash than sha256.
    """
    for row in csv.reader(lines):
        if not row or row[0].endswith(".pyc"):
            continue
        if len(row) < 2:
            raise ValueError(f"{row[0]} is recorded without a hash")
        algorithm, _, encoded = row[1].partition("=")
        if not row[1]:
            yield Row(row[0], "")  # RECORD itself
        elif algorithm == "sha256":
            yield Row(row[0], base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex())
        else:
            raise ValueError(f"{row[0]} is recorded with {algorithm}, not sha256")


def text(files: Iterable[tuple[str, bytes]], own: str) -> str:
    """A RECORD of these files (name, content), sorted by name; `own` is its own name, which has no hash."""
    listing = io.StringIO()
    out = csv.writer(listing, lineterminator="\n")
    out.writerows([name, *entry(content)] for name, content in sorted(files))
    out.writerow([own, "", ""])
    return listing.getvalue()


def entry(content: bytes) -> tuple[str, int]:
    """Hash and size of a file, as its line has them."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}", len(content)
