"""Reading locks: pins and conda packages, and what is refused as neither."""

from __future__ import annotations

import re

import pytest

from verlock import paths
from verlock.errors import LockError
from verlock.variant import lockfiles
from verlock.variant.lockfiles import Pin

DIGEST = "a" * 64


def written(tmp_path, text):
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    return path


def test_a_pin_has_its_hashes_marker_and_askers(tmp_path):
    text = (
        "# a header\n"
        f"Ruamel.Yaml==0.18.6 ; python_version < '3.11' \\\n    --hash=sha256:{DIGEST} \\\n    --hash=sha256:{'b' * 64}\n"
        "    # via\n    #   one\n    #   -r environments/x.in\n"
        f"six==1.17.0 --hash=sha256:{DIGEST}\n    # via one\n"
    )
    assert lockfiles.pins(written(tmp_path, text)) == [
        Pin(
            "ruamel-yaml",
            "0.18.6",
            (f"sha256:{DIGEST}", f"sha256:{'b' * 64}"),
            "python_version < '3.11'",
            ("one", "-r environments/x.in"),
        ),
        Pin("six", "1.17.0", (f"sha256:{DIGEST}",), "", ("one",)),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("six==1.17.0", "line 3: six has no hash"),
        (f"six>=1.17.0 --hash=sha256:{DIGEST}", "line 3: not a pin"),
        (f"six==1.17.0 --hash=md5:{'a' * 32}", "line 3: not a sha256"),
        (f"six==1.17.0 --hash=sha256:{'a' * 63}", "line 3: not a sha256"),
        ("--extra-index-url https://example.org/simple", "line 3: not a pin"),
        ("-e ./here", "line 3: not a pin"),
        (f"six==1.* --hash=sha256:{DIGEST}", "line 3: not a pin"),
        (f"six===1.17.0 --hash=sha256:{DIGEST}", "line 3: not a pin"),
        (f"six==1.17.0,!=1.16.0 --hash=sha256:{DIGEST}", "line 3: not a pin"),
        (f"Attrs==25.1.0 --hash=sha256:{DIGEST}", "line 3: attrs is there twice"),
    ],
)
def test_what_is_no_hashed_pin_is_refused_by_line_number(tmp_path, line, complaint):
    with pytest.raises(LockError, match=re.escape(complaint)):
        lockfiles.pins(written(tmp_path, f"attrs==25.1.0 \\\n    --hash=sha256:{DIGEST}\n{line}\n"))


def test_a_missing_lock_says_how_to_make_it(tmp_path):
    with pytest.raises(LockError, match="nox -s lock"):
        lockfiles.pins(tmp_path / "requirements.txt")


def test_a_conda_package_without_sha256_is_refused(tmp_path):
    path = tmp_path / "conda-lock.yml"
    text = (paths.LOCKS / "vllm073" / lockfiles.CONDA_LOCK).read_text()
    path.write_text(re.sub(r"\n    sha256: .*", "", text, count=1))
    with pytest.raises(LockError, match="has no sha256"):
        lockfiles.conda_packages(path)
    path.write_text("package: 3\n")
    with pytest.raises(LockError, match=re.escape("not a conda-lock.yml")):
        lockfiles.conda_packages(path)


CONDA_LOCK = """
version: 1
metadata: {}
package:
- name: zlib
  version: 1.3.1
  manager: conda
  platform: linux-64
  dependencies:
    libzlib: 1.3.1
  url: https://127.0.0.1:9/channel/linux-64/zlib-1.3.1-h4_2.conda
  hash:
    md5: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  category: main
  optional: false
"""
ENTRY = CONDA_LOCK.partition("package:\n")[2]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        # what conda-lock and rattler write for other uses than ours
        ("manager: conda", "manager: pip", "zlib 1.3.1 is not a package of conda, but of pip"),
        ("  manager: conda\n", "", "zlib 1.3.1 is not a package of conda, but of None"),
        ("category: main", "category: dev", "zlib 1.3.1 is not for every environment: its category is dev"),
        ("optional: false", "optional: true", "zlib 1.3.1 is not for every environment: its category is main"),
        (f"    sha256: {DIGEST}\n", "", "zlib 1.3.1 has no sha256"),
        (f"sha256: {DIGEST}", f"sha256: {DIGEST[:40]}", "zlib 1.3.1 has no sha256"),
        (ENTRY, ENTRY + ENTRY, "zlib 1.3.1 is there twice"),
        ("platform: linux-64", "platform: osx-64", "has no package for linux-64"),
        (ENTRY, "- []\n", "is not a conda-lock.yml"),
        ("package:\n", "packages:\n", "is not a conda-lock.yml"),
        ("version: 1\n", "version: 2\n", "is version 2 of conda-lock's format, not 1"),
        ("version: 1\n", "", "is version None of conda-lock's format, not 1"),
        # a URL of something else
        ("/linux-64/zlib", "/osx-64/zlib", "zlib 1.3.1 is not for linux-64: https://127.0.0.1:9/channel/osx-64/zlib"),
        ("/zlib-1.3.1-h4_2", "/zlib-1.2.13-h4_2", "zlib 1.3.1 has the URL of another file"),
        ("/zlib-1.3.1-h4_2.conda", "/zlib-1.3.1-py3-none.whl", "zlib 1.3.1 has the URL of another file"),
        ("https://127.0.0.1:9/channel/linux-64/", "", "zlib 1.3.1 is not for linux-64: zlib-1.3.1-h4_2.conda"),
        ("https://127.0.0.1:9/channel/linux-64/zlib", "https://me:hush-hush@127.0.0.1:9/c/win-64/zlib", "for linux-64: https://***@"),
    ],
)  # fmt: skip
def test_what_a_conda_lock_must_not_hold_is_refused_by_name(tmp_path, old, new, complaint):
    path = tmp_path / lockfiles.CONDA_LOCK
    assert old in CONDA_LOCK
    path.write_text(CONDA_LOCK.replace(old, new, 1))
    with pytest.raises(LockError, match=re.escape(complaint)):
        lockfiles.conda_packages(path)


def test_a_conda_lock_for_several_platforms_is_read_for_one(tmp_path):
    path = tmp_path / lockfiles.CONDA_LOCK
    other = ENTRY.replace("linux-64", "osx-64").replace("manager: conda", "manager: pip")
    path.write_text(CONDA_LOCK + other)
    assert lockfiles.conda_packages(path) == [
        {
            "name": "zlib",
            "version": "1.3.1",
            "url": "https://127.0.0.1:9/channel/linux-64/zlib-1.3.1-h4_2.conda",
            "sha256": DIGEST,
            "python": False,
        }
    ]
    assert lockfiles.conda_askers(path, "libzlib") == [("zlib", "1.3.1", "1.3.1")]


def test_who_depends_on_a_conda_package_and_within_which_bound():
    askers = lockfiles.conda_askers(paths.LOCKS / "v1" / lockfiles.CONDA_LOCK, "gcc")
    assert ("gxx", "12.4.0", "12.4.0.*") in askers
    assert lockfiles.conda_askers(paths.LOCKS / "vllm073" / lockfiles.CONDA_LOCK, "gcc") == []


def test_a_folder_without_a_lock_of_sources_has_neither_patch_nor_wheel(tmp_path):
    assert lockfiles.sources(tmp_path) == {"patches": [], "wheel": None}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"patches": []}', '{"wheel": null, "patches": [{"file": "a"}]}', "null"]
)
def test_what_is_no_lock_of_sources_is_refused(tmp_path, content):
    (tmp_path / lockfiles.SOURCES).write_text(content)
    with pytest.raises(LockError, match="is not a lock of sources"):
        lockfiles.sources(tmp_path)


@pytest.mark.parametrize("read", [lockfiles.text_of, lockfiles.pins, lockfiles.conda_packages])
def test_a_lock_that_is_no_text_is_refused(tmp_path, read):
    path = tmp_path / "lock"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LockError, match="is not text"):
        read(path)


@pytest.mark.parametrize("name", ["A_b.c", "a--b__c", "a-b-c"])
def test_names_are_compared_as_the_standard_says(name):
    assert lockfiles.normalise(name) == "a-b-c"


def test_a_lock_for_several_pythons_may_name_a_package_once_for_each(tmp_path):
    lock = tmp_path / "front.txt"
    lines = [
        f"six==1.{n} ; python_version {sign} '3.11' --hash=sha256:{DIGEST}\n" for n, sign in ((16, "<"), (17, ">="))
    ]
    lock.write_text("".join(lines))
    assert [pin.version for pin in lockfiles.pins(lock, forked=True)] == ["1.16", "1.17"]
    with pytest.raises(LockError, match="six is there twice"):
        lockfiles.pins(lock)
    lock.write_text(lines[0] * 2)
    with pytest.raises(LockError, match="six is there twice"):
        lockfiles.pins(lock, forked=True)
