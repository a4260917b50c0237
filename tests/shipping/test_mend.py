"""What the script in a moved environment does to texts, programs and RECORDs; the whole is in tests/e2e/test_relocate.py."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from verlock.shipping import mend


def test_a_text_names_the_new_places_and_what_only_begins_like_an_old_one_stays():
    places = {"/old/envs/toy": "/old/envs/toy/inside", "/old/python": "/new/python"}
    before = b"#!/old/envs/toy/bin/python\nhome=/old/python/bin '/old/envs/toy' /old/envs/toy-py311/x /old/python3"
    assert mend.text(before, places) == (
        b"#!/old/envs/toy/inside/bin/python\nhome=/new/python/bin '/old/envs/toy/inside' /old/envs/toy-py311/x /old/python3"
    )


@pytest.mark.parametrize("new", [b"/n", b"/as/long/as", b"/much/longer/than/the/old"])
def test_a_program_keeps_its_size_and_every_other_byte_its_place(new):
    old, room = b"/old/prefix", 40
    field = b"rpath=" + old + b"/lib:" + old + b"/lib64"
    data = b"\x7fELF\0" + field + b"\0" * 60 + b"end\0" + old + b"\0" * 30 + b"tail"
    changed = mend.binary(data, old, new, room)
    assert len(changed) == len(data)
    assert changed.startswith(b"\x7fELF\0rpath=" + new + b"/lib:" + new + b"/lib64\0")
    assert changed.index(b"end\0") == data.index(b"end\0") and changed.endswith(b"tail")
    assert old not in changed and changed.count(new) == 3


def test_a_program_without_room_is_refused_and_not_cut():
    with pytest.raises(mend.Refused, match="no room"):
        mend.binary(b"\0/old\0more", b"/old", b"/longer", 4)
    with pytest.raises(mend.Refused, match="no room"):  # the zeros that follow are something else's
        mend.binary(b"\0/old" + b"\0" * 90, b"/old", b"/longer", 4)


def test_the_script_is_one_for_a_shell_too(tmp_path):
    script = tmp_path / "mend-toy"
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    script.write_text(Path(mend.__file__).read_text().replace("PYTHON", "python", 1))
    done = subprocess.run(["sh", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-I", "-S", "-B", str(script), str(tmp_path)]
