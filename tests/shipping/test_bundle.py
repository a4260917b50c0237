"""Parts of bundles that need no environment; whole ones are in tests/e2e/test_bundle.py."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
import toysource

from verlock import errors, paths
from verlock.errors import BundleRefused
from verlock.shipping import bundle, bundle_contents, starter, trees
from verlock.system import host_python
from verlock.system.host_python import HostPython
from verlock.variant import manifest


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("700MB", 700_000_000), ("2 GB", 2 * 10**9), ("1048576", 1 << 20), ("1mib", 1 << 20)],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert bundle.bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "4 gigabytes", "-1", "1KB", "4.5GiB", "GiB"])
def test_other_words_are_no_size(text):
    with pytest.raises(ValueError, match="such as 4GiB"):
        bundle.bytes_of(text)


def test_the_starter_speaks_of_the_same_files_and_codes_as_verlock():
    assert (starter.MANIFEST, starter.PARTS) == (manifest.NAME, manifest.PARTS)
    assert {kind: each.exit_code for kind, each in bundle.KINDS.items()} == starter.KINDS
    assert errors.BundleRefused.exit_code == starter.REFUSED


def test_the_starter_imports_the_standard_library_alone():
    text = Path(starter.__file__).read_text()
    assert "import verlock" not in text and "from verlock" not in text


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", ""])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path, path):
    entry = {"path": path, "size": 1, "sha256": "0" * 64}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": [entry]}))
    with pytest.raises(starter.Refused, match="is damaged"):
        starter.differences(tmp_path)


def test_links_are_no_files_of_a_bundle(tmp_path):
    (tmp_path / "there").write_bytes(b"x")
    sha256 = starter.sha256(tmp_path / "there")
    (tmp_path / "link").symlink_to("there")
    listed = [{"path": name, "size": 1, "sha256": sha256} for name in ("there", "link")]
    (tmp_path / "manifest.json").write_text(json.dumps({"files": listed}))
    assert starter.differences(tmp_path) == [("altered", "link")]


def test_two_variants_share_a_file_and_may_not_want_two_of_one_name(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).write_text(name)
    contents = bundle_contents.Contents(tmp_path)
    contents.add("wheels/a.whl", tmp_path / "one", "vllm073")
    contents.add("wheels/a.whl", tmp_path / "one", "v1")
    (entry,) = contents.manifest()["files"]
    assert entry["for"] == ["v1", "vllm073"]
    with pytest.raises(BundleRefused, match=r"different files called wheels/a\.whl"):
        contents.add("wheels/a.whl", tmp_path / "other", "v1")


def test_an_archive_does_not_depend_on_time_owner_or_mask(tmp_path):
    made = []
    for number, name in enumerate(("a", "b")):
        root = tmp_path / name
        (root / "deep").mkdir(parents=True)
        for path, text in (("deep/file", "text"), ("run", "#!/bin/sh\n")):
            (root / path).write_text(text)
            os.utime(root / path, (number, number))
        (root / "run").chmod(0o755 if number else 0o700)
        (root / "deep/file").chmod(0o600 if number else 0o664)
        (root / "link").symlink_to("deep/file")
        names = trees._files(root)
        trees.write(tmp_path / f"{name}.tar", root, names if number else reversed(names), top="top/")
        made.append((tmp_path / f"{name}.tar").read_bytes())
    assert made[0] == made[1]
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert archive.getnames() == ["top/deep/file", "top/link", "top/run"]


@pytest.fixture
def python(tmp_path, monkeypatch):
    """A tree that looks like a CPython's, whose program names it by an absolute path."""

    def make(prefix: Path) -> HostPython:
        for name in (
            "bin/python3.10",
            "bin/pip",
            "lib/libpython3.10.so",
            "lib/libpython3.10.a",
            "lib/python3.10/os.py",
        ):
            (prefix / name).parent.mkdir(parents=True, exist_ok=True)
            (prefix / name).write_bytes(b"")
        for name in ("site-packages/x.py", "test/x.py", "__pycache__/os.cpython-310.pyc"):
            (prefix / "lib/python3.10" / name).parent.mkdir()
            (prefix / "lib/python3.10" / name).write_bytes(b"")
        (prefix / "bin/python3.10").write_bytes(b"\x7fELF\0" + os.fsencode(prefix / "lib") + b"\0more")
        answer = json.dumps([str(prefix), [3, 10]])
        monkeypatch.setattr(trees.subprocess, "run", lambda *a, **b: type("Done", (), {"stdout": answer}))
        return HostPython(prefix / "bin/python3.10", "3.10.13")

    return make


def test_of_an_interpreter_goes_in_what_it_runs_on_and_it_finds_its_library_beside_itself(python, tmp_path):
    tree = trees.interpreter(python(tmp_path / "a-long-enough-name"))
    assert tree.names == ("bin/python3.10", "lib/libpython3.10.so", "lib/python3.10/os.py")
    before = (tree.root / "bin/python3.10").read_bytes()
    after = tree.changed["bin/python3.10"]
    assert len(after) == len(before) and after.startswith(b"\x7fELF\0$ORIGIN/../lib\0") and after.endswith(b"\0more")


def test_the_system_s_own_python_is_not_carried(python, monkeypatch):
    monkeypatch.setattr(trees, "_SYSTEM", ("/usr",))
    answer = json.dumps(["/usr", [3, 10]])
    monkeypatch.setattr(trees.subprocess, "run", lambda *a, **b: type("Done", (), {"stdout": answer}))
    with pytest.raises(BundleRefused, match="part of the system"):
        trees.interpreter(HostPython(Path("/usr/bin/python3.10"), "3.10.13"))


def test_a_commit_is_archived_as_it_is_and_nothing_else(tmp_path, monkeypatch):
    root = tmp_path / "clone"
    root.mkdir()
    monkeypatch.setattr(paths, "ROOT", root)
    with pytest.raises(BundleRefused, match="from a clone"):
        trees.commit()
    toysource.git(root, "init", "--quiet")
    (root / "file").write_text("committed")
    toysource.git(root, "add", "--all")
    toysource.git(root, "commit", "--quiet", "--message", "one")
    trees.repository(trees.commit(), tmp_path / "one.tar")
    (root / "file").write_text("changed")
    with pytest.raises(BundleRefused, match="in no commit"):
        trees.commit()
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert archive.extractfile("file").read() == b"committed"


def test_the_interpreter_that_is_named_counts_before_all_others(monkeypatch, tmp_path):
    own = HostPython(tmp_path / "python3.10", "3.10.1")
    monkeypatch.setattr(host_python, "probe", lambda path: own if path == own.executable else None)
    monkeypatch.setenv(host_python.VARIABLE, str(own.executable))
    assert host_python.find("3.10") == own
    assert host_python.find("3.11") is None
