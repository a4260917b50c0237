"""Byte code against its source: what is the same code, whoever compiled it, and what is not."""

from __future__ import annotations

import importlib.util
import marshal
import os
import py_compile
import subprocess
import sys

import pytest

from verlock.env import byte_code, same_code
from verlock.env.byte_code import Compiled

TEXT = '''
"""Doc."""
import os
def f(a, *b, c=1.5, **d):
    "Inner doc."
    assert a in {"x", "y", "zzz", b"q", None, 3}
    return [each for each in b if each] + [a[1:2], (1, (2, "three")), ..., 2j, -0.0]
class C:
    def g(self):
        try:
            yield lambda: self
        except ValueError:
            raise
'''


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(TEXT)
    return path


def compiled(source, level=0, mode=py_compile.PycInvalidationMode.TIMESTAMP):
    target = source.with_name(f"{level}.pyc")
    py_compile.compile(str(source), str(target), doraise=True, optimize=level, invalidation_mode=mode)
    return target


@pytest.mark.parametrize("mode", list(py_compile.PycInvalidationMode))
@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_python_wrote_is_the_same(source, level, mode):
    assert same_code.verdict(str(compiled(source, level, mode)), str(source), level) == "same"


def test_what_python_wrote_without_columns_is_the_same(source):
    path = source.with_name("0.pyc")
    code = f"import py_compile; py_compile.compile({str(source)!r}, {str(path)!r})"
    subprocess.run([sys.executable, "-X", "no_debug_ranges", "-c", code], check=True)
    assert same_code.verdict(str(path), str(source), 0) == "same"


def test_where_the_source_lay_when_it_was_compiled_is_no_matter(source, tmp_path):
    target = compiled(source)
    code = compile(TEXT, "/elsewhere/module.py", "exec", dont_inherit=True)
    target.write_bytes(target.read_bytes()[:16] + marshal.dumps(code))
    assert same_code.verdict(str(target), str(source), 0) == "same"


@pytest.mark.parametrize(
    ("old", "new"),
    [("1.5", "1.6"), ("zzz", "zz"), ("each for", "0 for"), ("-0.0", "0.0"), ("(self)", "(self, x)"), ("1:2", "1:3")],
)
@pytest.mark.parametrize("mode", list(py_compile.PycInvalidationMode))
def test_code_of_another_text_is_seen_with_a_header_that_fits(source, old, new, mode):
    target = compiled(source, mode=mode)
    assert old in TEXT
    target.write_bytes(
        target.read_bytes()[:16]
        + marshal.dumps(compile(TEXT.replace(old, new), str(source), "exec", dont_inherit=True))
    )
    assert same_code.verdict(str(target), str(source), 0) == "other"


@pytest.mark.parametrize("body", [b"", b"\xff" * 40, marshal.dumps("text"), marshal.dumps(None)])
def test_what_is_no_code_is_other(source, body):
    target = compiled(source)
    target.write_bytes(target.read_bytes()[:16] + body)
    assert same_code.verdict(str(target), str(source), 0) == "other"


def test_what_python_throws_away_is_unused(source, tmp_path):
    target = compiled(source)
    good = target.read_bytes()
    for data in (b"", good[:15], b"xxxx" + good[4:], good[:12] + b"\0\0\0\0" + good[16:]):
        target.write_bytes(data)
        assert same_code.verdict(str(target), str(source), 0) == "unused"
    target.write_bytes(good)
    os.utime(source, (1, 1))
    assert same_code.verdict(str(target), str(source), 0) == "unused"
    assert same_code.verdict(str(tmp_path / "gone"), str(source), 0) == "unused"


def test_the_name_tells_source_python_and_level():
    assert byte_code.compiled("/p/__pycache__/a.cpython-310.pyc", "3.10") == Compiled(
        "/p/__pycache__/a.cpython-310.pyc", "/p/a.py", 0
    )
    two = byte_code.compiled("/p/__pycache__/a.b.cpython-310.opt-2.pyc", "3.10")
    assert two is not None and (two.source, two.level) == ("/p/a.b.py", 2)
    for name in ("a.cpython-311.pyc", "a.pyc", "a.cpython-310-pytest-8.0.pyc", "a.py310.nbi", "a.cpython-310.pyc.123"):
        assert byte_code.compiled(f"/p/__pycache__/{name}", "3.10") is None


def test_this_python_s_own_name_for_byte_code_is_known(source):
    path = importlib.util.cache_from_source(str(source), optimization="")
    version = path.rpartition("cpython-3")[2].partition(".")[0]
    each = byte_code.compiled(path, f"3.{version}")
    assert each is not None and each.source == str(source)
