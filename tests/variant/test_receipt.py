"""The receipt: whole or absent, bound to its place; and the fingerprint that tells whether anything was touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from verlock.errors import NotSealed
from verlock.system import files
from verlock.variant import receipt


def sealed(prefix: Path) -> dict:
    return {**toy.SEALED, "schema": receipt.SCHEMA, "prefix": str(prefix)}


@pytest.fixture
def prefix(tmp_path):
    """A small prefix with its receipt."""
    folder = tmp_path / "env"
    (folder / "lib/pkg/__pycache__").mkdir(parents=True)
    (folder / "lib/pkg/a.py").write_text("a")
    (folder / "lib/pkg/b.py").write_text("b")
    (folder / "lib64").symlink_to("lib")
    receipt.write(folder, sealed(folder))
    return folder


def test_what_is_written_is_read(prefix):
    assert receipt.read(prefix) == sealed(prefix)
    assert sorted(path.name for path in prefix.iterdir()) == ["lib", "lib64", receipt.NAME], "no draft is left"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "{}", '{"schema": 1}', "\x00" * 40])
def test_what_is_no_receipt(prefix, content):
    (prefix / receipt.NAME).write_text(content)
    with pytest.raises(NotSealed):
        receipt.read(prefix)


@given(st.integers(0, 400))
def test_no_beginning_of_a_receipt_is_a_receipt(length):
    text = json.dumps(sealed(Path("/x")))
    if length < len(text):
        with pytest.raises(ValueError):
            json.loads(text[:length])


def test_a_half_written_draft_is_not_read_and_does_not_count(prefix):
    before = receipt.fingerprint(prefix)
    files.draft_of(prefix / receipt.NAME).write_text('{"schema": 1, "dig')
    assert receipt.read(prefix) == sealed(prefix) and receipt.fingerprint(prefix) == before
    (prefix / receipt.NAME).unlink()
    with pytest.raises(NotSealed, match="not a finished environment"):
        receipt.read(prefix)


def test_a_receipt_of_another_schema(prefix):
    receipt.write(prefix, {**sealed(prefix), "schema": receipt.SCHEMA + 1})
    with pytest.raises(NotSealed, match="another verlock"):
        receipt.read(prefix)


def test_a_moved_prefix(prefix):
    moved = prefix.rename(prefix.with_name("moved"))
    with pytest.raises(NotSealed, match="was moved: it was made at"):
        receipt.read(moved)


def test_the_same_place_by_another_name(prefix, tmp_path):
    (tmp_path / "link").symlink_to(prefix)
    assert receipt.read(tmp_path / "link") == sealed(prefix)


def test_distrust_takes_the_fingerprint_alone(prefix):
    receipt.distrust(prefix)
    assert receipt.read(prefix) == {**sealed(prefix), "fingerprint": ""}


def test_distrust_of_what_is_not_sealed_is_the_caller_s_error(tmp_path):
    with pytest.raises(NotSealed):
        receipt.distrust(tmp_path)


def rename(prefix):
    (prefix / "lib/pkg/a.py").rename(prefix / "lib/pkg/c.py")


CHANGES = {
    "size": lambda prefix: (prefix / "lib/pkg/a.py").write_text("aa"),
    "time": lambda prefix: os.utime(prefix / "lib/pkg/a.py", ns=(1, 1)),
    "added": lambda prefix: (prefix / "lib/new").write_text(""),
    "removed": lambda prefix: (prefix / "lib/pkg/a.py").unlink(),
    "renamed": rename,
    "link elsewhere": lambda prefix: [(prefix / "lib64").unlink(), (prefix / "lib64").symlink_to("lib/pkg")],
    "link added": lambda prefix: (prefix / "lib/link").symlink_to("pkg"),
    "file in a new folder": lambda prefix: [(prefix / "etc").mkdir(), (prefix / "etc/x").write_text("")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_sees(prefix, change):
    before = receipt.fingerprint(prefix)
    CHANGES[change](prefix)
    assert receipt.fingerprint(prefix) != before


def test_the_fingerprint_does_not_see_byte_code_or_the_receipt(prefix):
    before = receipt.fingerprint(prefix)
    (prefix / "lib/pkg/__pycache__/a.cpython-310.pyc").write_bytes(b"code")
    (prefix / "lib/pkg/old.pyc").write_bytes(b"code")
    receipt.write(prefix, {**sealed(prefix), "digest": "other"})
    assert receipt.fingerprint(prefix) == before


def test_the_fingerprint_of_what_was_walked_already_is_the_same(prefix):
    (prefix / "lib/pkg/__pycache__/deeper").mkdir()
    (prefix / "lib/pkg/__pycache__/deeper/file").write_text("x")
    (prefix / "lib/pkg/zzz").mkdir()
    (prefix / "lib/pkg/zzz/file").write_text("x")
    walked = list(receipt.walk(prefix, byte_code=True))
    assert f"{prefix}/lib/pkg/__pycache__" in [folder for folder, _ in walked]
    assert receipt.fingerprint(prefix, walked) == receipt.fingerprint(prefix)


def test_the_fingerprint_of_names_that_are_no_text(prefix):
    before = receipt.fingerprint(prefix)
    Path(os.fsdecode(os.fsencode(prefix) + b"/lib/\xff\n.py")).write_bytes(b"")
    assert receipt.fingerprint(prefix) != before


def test_what_is_editable_is_read_from_older_receipts_too(prefix):
    """They said only that something was: it was the recipe's source."""
    assert receipt.editable(receipt.raw(prefix / "nowhere")) == ()
    for found, wanted in [(False, ()), (True, ("vllm",)), ({"verl": {}}, ("verl",))]:
        receipt.write(prefix, {**sealed(prefix), "editable": found, "source": {"package": "vllm"}})
        assert receipt.editable(receipt.raw(prefix)) == wanted
        if found is True:
            with pytest.raises(NotSealed, match="another verlock"):
                receipt.read(prefix)
