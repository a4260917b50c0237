"""The archive writer, against the standard library's reader."""

from __future__ import annotations

import os
import subprocess
import time
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verlock.sources import wheel_archive
from verlock.sources.wheel_archive import Entry

DAY = 1740355200  # 2025-02-24


@pytest.fixture
def donor(tmp_path):
    path = tmp_path / "donor.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        out.writestr("first.txt", "x" * 1000)
        out.writestr("pkg/_C.so", os.urandom(3_000_000) + b"\0" * 3_000_000)
        stored = zipfile.ZipInfo("pkg/stored.so")
        stored.extra = b"\x99\x99\x04\x00abcd"  # a local header longer than the directory's
        out.writestr(stored, b"stored")
    return path


def members(path):
    with zipfile.ZipFile(path) as file:
        return {member.filename: member for member in file.infolist()}


def test_members_of_another_wheel_keep_their_compressed_bytes(tmp_path, donor):
    taken = members(donor)
    entries = {name: Entry(donor=donor, member=taken[name]) for name in ("pkg/stored.so", "pkg/_C.so")}
    wheel_archive.write(tmp_path / "made.whl", {**entries, "a.py": Entry(b"import x\n")}, DAY)
    with zipfile.ZipFile(tmp_path / "made.whl") as made, zipfile.ZipFile(donor) as old:
        assert made.testzip() is None
        assert made.namelist() == ["a.py", "pkg/_C.so", "pkg/stored.so"]
        for name in entries:
            assert made.read(name) == old.read(name)
            assert made.getinfo(name).compress_size == old.getinfo(name).compress_size
    assert subprocess.run(["unzip", "-tq", tmp_path / "made.whl"], capture_output=True, check=False).returncode == 0


def test_times_and_modes_are_fixed(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        wheel_archive.write(tmp_path / "made.whl", {"a.py": Entry(b"")}, DAY + 3600)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    entry = members(tmp_path / "made.whl")["a.py"]
    assert entry.date_time == (2025, 2, 24, 1, 0, 0)
    assert entry.external_attr >> 16 == 0o100644
    assert entry.create_system == 3


def test_dist_info_comes_last(tmp_path):
    names = ["z/a.py", "a-1.dist-info/RECORD", "a/b.py", "a-1.dist-info/METADATA"]
    wheel_archive.write(tmp_path / "made.whl", {name: Entry(b"") for name in names}, DAY)
    assert list(members(tmp_path / "made.whl")) == [
        "a/b.py",
        "z/a.py",
        "a-1.dist-info/METADATA",
        "a-1.dist-info/RECORD",
    ]


def test_a_truncated_donor_is_noticed(tmp_path, donor):
    taken = members(donor)
    donor.write_bytes(donor.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="ends within pkg"):
        wheel_archive.write(tmp_path / "made.whl", {"x": Entry(donor=donor, member=taken["pkg/_C.so"])}, DAY)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        st.text("abcé/._-", min_size=1, max_size=12).filter(lambda n: not n.endswith("/")), st.binary(max_size=40)
    ),
    epoch=st.integers(0, 4_000_000_000),
)
def test_same_content_same_bytes_whatever_the_order(tmp_path, files, epoch):
    one, two = tmp_path / "one.whl", tmp_path / "two.whl"
    wheel_archive.write(one, {name: Entry(data) for name, data in files.items()}, epoch)
    wheel_archive.write(two, {name: Entry(files[name]) for name in reversed(files)}, epoch)
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as made:
        assert {name: made.read(name) for name in made.namelist()} == files
