"""RECORD: the lines that a wheel brings, read and written."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verlock.variant import record
from verlock.variant.record import Row

EMPTY = (
    "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"  # base64 of the sha256 of nothing, as every empty __init__.py has it
)
EMPTY_HEX = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_lines_of_a_record():
    lines = [
        f"a/__init__.py,sha256={EMPTY},0\n",
        "a/__pycache__/x.cpython-310.pyc,,\n",
        "a/y.pyc,md5=abc,1\n",
        "\n",
        f'"a/b, ""c"".py",sha256={EMPTY},0\n',
        f"../../../bin/Ünï,sha256={EMPTY}=,0\n",
        f"/etc/x,sha256={EMPTY},\n",
        "a-1.dist-info/RECORD,,\n",
    ]
    names = ["a/__init__.py", 'a/b, "c".py', "../../../bin/Ünï", "/etc/x"]
    assert list(record.rows(lines)) == [*(Row(name, EMPTY_HEX) for name in names), Row("a-1.dist-info/RECORD", "")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.py,md5=abc,1", "a.py is recorded with md5, not sha256"),
        ("a.py,sha512=abc,1", "a.py is recorded with sha512, not sha256"),
        (f"a.py,{EMPTY},0", "not sha256"),
        ("a.py", "a.py is recorded without a hash"),
        ("a.py,sha256=A,1", "base64"),  # base64 of no whole byte
    ],
)
def test_what_is_no_line_of_a_record(line, said):
    with pytest.raises(ValueError, match=said):
        list(record.rows([line]))


def test_a_line_that_csv_refuses():
    with pytest.raises(csv.Error):
        list(record.rows(["a" * (csv.field_size_limit() + 1)]))


def test_a_record_that_another_program_wrote():
    """That of pytest, as it was installed here: every hash is that of its file."""
    distribution = importlib.metadata.distribution("pytest")
    seen = 0
    for row in record.rows(distribution.read_text(record.NAME).splitlines()):
        if row.sha256:
            assert row.sha256 == hashlib.sha256(distribution.locate_file(row.path).read_bytes()).hexdigest(), row.path
            seen += 1
    assert seen > 50


def test_a_hash_and_a_size_as_a_line_has_them():
    assert record.entry(b"") == (f"sha256={EMPTY}", 0)
    name, size = record.entry(b"\xff" * 5)
    assert size == 5 and name.startswith("sha256=") and "=" not in name[7:]
    assert base64.urlsafe_b64decode(name[7:] + "=") == hashlib.sha256(b"\xff" * 5).digest()


def test_what_is_written_is_sorted_and_ends_with_its_own_line():
    text = record.text([("b.py", b""), ("a, b.py", b"x")], "x-1.dist-info/RECORD")
    first = record.entry(b"x")[0]
    assert text == f'"a, b.py",{first},1\nb.py,sha256={EMPTY},0\nx-1.dist-info/RECORD,,\n'


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    lambda name: not name.endswith(".pyc")
)


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=8))
def test_what_is_written_is_read(contents):
    text = record.text(contents.items(), "own/RECORD")
    assert text == record.text(reversed(contents.items()), "own/RECORD"), "the order of the files shows"
    want = [Row(name, hashlib.sha256(data).hexdigest()) for name, data in sorted(contents.items())]
    assert list(record.rows(io.StringIO(text, newline=""))) == [*want, Row("own/RECORD", "")]
