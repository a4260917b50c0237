"""`lock --check`: what makes a lock stale and what does not, offline and at once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from verlock import paths
from verlock.errors import LockError, RecipeError, StaleLock
from verlock.locking import lock_diff, lock_inputs, staleness, sums
from verlock.system import files
from verlock.variant import lockfiles
from verlock.variant.chosen import choose, names

PIP_LAYER = ["build-requirements.txt", "requirements.txt"]


def complaints(*variants):
    with pytest.raises(StaleLock) as caught:
        staleness.check(variants)
    return sorted(line.split()[0] for line in caught.value.problem.splitlines()[1:])


def test_comments_and_dates_make_nothing_stale(clone, edit):
    for path in clone.rglob("*.in"):
        path.write_text("# another remark\n\n" + path.read_text().replace("\n# ", "\n# well, "))
        os.utime(path, (0, 0))
    tools = clone / "environments" / "tools" / "requirements.in"
    edit(tools, "# well, cut-off", "# cut-off")
    assert staleness.check() == 0


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("environments/vllm073/requirements.in", "vllm==0.7.3", "vllm==0.7.2", ["requirements.txt"]),
        ("recipes/common/verl-0.3.toml", "date = 2025-04-03", "date = 2025-04-04", [*PIP_LAYER, "conda-lock.yml"]),
        ("recipes/common/linux.toml", 'glibc = "2.28"', 'glibc = "2.31"', [*PIP_LAYER, "conda-lock.yml"]),
        ("recipes/common/verl.toml", 'package = "antlr4-python3-runtime"', 'package = "antlr"', PIP_LAYER),
        ("environments/vllm071/environment.yml", "dependencies: []", "dependencies: [jq]", ["conda-lock.yml"]),
    ],
)  # fmt: skip
def test_a_changed_input_is_named_and_nothing_else(clone, edit, file, old, new, named):
    _, folder, name = file.split("/")
    concerned = [each for each in names() if folder == each or Path(name).stem in choose(each).recipe.include]
    edit(clone / file, old, new)
    stale_files = [
        chosen.locks / each for variant in concerned for chosen in choose(variant).pythons() for each in named
    ]
    assert concerned and complaints() == sorted(str(path.relative_to(clone)) for path in stale_files)


def test_a_shared_input_makes_all_who_include_it_stale(clone, edit):
    edit(clone / "environments/common/vllm-0.7-holds.in", "ray==2.40.0", "ray==2.41.0")
    assert complaints() == [f"locks/vllm07{number}/requirements.txt" for number in (0, 1, 2)]


def test_a_changed_patch_makes_the_sources_stale(clone):
    patch = next((clone / "recipes/vllm072/patches").glob("*.patch"))
    patch.write_text(patch.read_text() + "\n")
    assert complaints() == ["locks/vllm072/sources.json"]


def test_a_list_of_files_that_is_missing_or_of_other_pins_is_stale(clone):
    (clone / "locks/vllm070/files.json").unlink()
    path = clone / "locks/vllm083/files.json"
    path.write_text(path.read_text().replace(files.sha256(path.parent / "requirements.txt"), "0" * 64))
    sums.update([path.parent])
    with pytest.raises(StaleLock) as caught:
        staleness.check()
    assert "locks/vllm070/files.json is missing" in caught.value.problem
    assert "locks/vllm083/files.json was made from other pins" in caught.value.problem
    assert len(caught.value.problem.splitlines()) == 3


def test_missing_and_orphaned_locks_are_named(clone, edit):
    (clone / "locks/vllm083/conda-lock.yml").unlink()
    (clone / "locks/vllm099").mkdir()
    edit(clone / "recipes/v1/recipe.toml", 'python = ["3.10", "3.11", "3.12"]', 'python = ["3.10", "3.11"]')
    assert complaints() == ["locks/v1/py312", "locks/vllm083/conda-lock.yml", "locks/vllm099"]


def test_each_set_of_tools_has_a_lock_and_more_than_the_base_set():
    names = lock_inputs.tools_sets()
    assert names[0] == lockfiles.BASE_TOOLS and {"tests", "lint"} <= set(names)
    sets = {name: lock_diff.tree()[lockfiles.TOOLS, "pip" if name == lockfiles.BASE_TOOLS else name] for name in names}
    base = sets.pop(lockfiles.BASE_TOOLS)
    assert "requests" in base and not {"pytest", "coverage", "ruff", "mypy"} & set(base)
    for name, layer in sets.items():
        assert len(layer) > len(base), name
        differing = [package for package in base if layer[package].version != base[package].version]
        assert differing == [], name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("environments/tools/lint.in", "ruff>=", "ruff>"), ["locks/tools/lint.txt"]),
        (
            ("locks/tools/requirements.txt", "requests==", "requests ==="),
            [f"locks/tools/{name}.txt" for name in sorted(lock_inputs.tools_sets())],
        ),
        (
            ("environments/tools/requirements.in", "requests>=", "requests>"),
            [f"locks/tools/{name}.txt" for name in sorted(lock_inputs.tools_sets())],
        ),
        (
            ("environments/tools/requirements.in", "# cut-off: 2026", "# cut-off: 2025"),
            [f"locks/tools/{name}.txt" for name in sorted(lock_inputs.tools_sets())],
        ),
    ],
)  # fmt: skip
def test_a_set_of_tools_is_stale_by_its_own_file_and_by_the_base_set(clone, edit, change, named):
    file, old, new = change
    edit(clone / file, old, new)
    assert complaints(lockfiles.TOOLS) == named


def test_a_new_set_of_tools_is_a_new_file(clone):
    (clone / "environments/tools/docs.in").write_text("-r requirements.in\nsphinx\n")
    (clone / "environments/tools/lint.in").unlink()
    assert complaints() == ["locks/tools/docs.txt", "locks/tools/lint.txt"]
    with pytest.raises(StaleLock, match=r"lint\.txt belongs to no \.in file"):
        staleness.check()


def test_one_broken_recipe_does_not_hide_the_others(clone, edit):
    edit(clone / "recipes/vllm070/recipe.toml", "summary", "sumary")
    edit(clone / "environments/vllm083/requirements.in", "vllm==0.8.3", "vllm==0.8.2")
    with pytest.raises(StaleLock) as caught:
        staleness.check()
    assert "locks/vllm083/requirements.txt" in caught.value.problem
    assert "sumary" in caught.value.problem


def test_check_needs_no_network():
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from verlock.locking import staleness\n"
        "sys.exit(staleness.check())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT, capture_output=True)


def test_sources_that_are_no_json_are_stale(clone):
    (clone / "locks/v1/sources.json").write_text("{")
    (clone / "locks/vllm073/sources.json").write_text(json.dumps({"patches": [], "wheel": None}))
    assert complaints("v1", "vllm073") == ["locks/v1/sources.json", "locks/vllm073/sources.json"]


def edited(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert re.search(old, text, re.MULTILINE)
    path.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("requirements.txt", r"^torch==", "<<<<<<< ours\ntorch==", "not a pin: '<<<<<<< ours'"),
        ("requirements.txt", r"( .)?\n    --hash=sha256:[0-9a-f]{64}\n    #", "\n    #", "accelerate has no hash"),
        ("requirements.txt", r"sha256:[0-9a-f]{4}", "sha256:0000", "its sha256"),
        ("requirements.txt", r"^numpy==\S+", "numpy==9.9", "its sha256"),
        ("requirements.txt", r"^numpy==(.|\n)*", "", "its sha256"),
        ("build-requirements.txt", r"^setuptools==\S+", "setuptools==9.9", "its sha256"),
        ("conda-lock.yml", r"^- name: pip(.|\n)*", "", "its sha256"),
        ("conda-lock.yml", r"^    sha256: .*\n", "", "has no sha256"),
        ("conda-lock.yml", r"sha256: [0-9a-f]{4}", "sha256: 0000", "its sha256"),
        ("conda-lock.yml", r"^- name: pip", "=======\n- name: pip", "is not a conda-lock.yml"),
        ("sources.json", r'"after": "[0-9a-f]{4}', '"after": "0000', "its sha256"),
        ("sources.json", r'"path": "', '"path": "../', "is not a lock of sources"),
        ("sources.json", r"^", "<<<<<<< ours\n", "is not a lock of sources"),
        ("files.json", r'"filename": "', '"filename": "../', "is not a list of locked files"),
        ("files.json", r'"size": \d', '"size": 9', "its sha256"),
    ],
)  # fmt: skip
def test_an_edited_lock_is_named_with_what_is_wrong_and_how_it_comes_back(clone, name, old, new, said):
    path = clone / "locks/vllm073/py311" / name
    edited(path, old, new)
    with pytest.raises(StaleLock) as caught:
        staleness.check()
    (line,) = caught.value.problem.splitlines()[1:]
    assert line.startswith(f"  locks/vllm073/py311/{name} was edited: ") and said in line
    assert f"git checkout HEAD -- locks/vllm073/py311/{name}`" in caught.value.remedy


@pytest.mark.parametrize("content", [b"\xff\xfe", b""])
@pytest.mark.parametrize("name", [*lockfiles.ALL, "SHA256SUMS", "tools"])
def test_a_lock_that_is_empty_or_no_text_is_an_error_with_words(clone, name, content):
    path = clone / "locks/vllm073" / name
    if name == "SHA256SUMS":
        path = clone / "locks" / name
    elif name == "tools":
        path = clone / "locks/tools/lint.txt"
    path.write_bytes(content)
    with pytest.raises((StaleLock, LockError)) as caught:
        staleness.check()
    assert paths.shown(path) in str(caught.value) or name == "SHA256SUMS"


def test_an_input_that_is_no_text_is_an_error_with_words(clone):
    (clone / "environments/vllm073/requirements.in").write_bytes(b"\xff\xfe")
    with pytest.raises(LockError, match=r"environments/vllm073/requirements\.in is not text"):
        staleness.check(["vllm073"])


def test_a_patch_file_that_no_recipe_names_is_an_error(clone):
    stray = clone / "recipes/vllm072/patches/0009-New.patch"
    stray.write_text("new")
    with pytest.raises(RecipeError, match=r"recipes/vllm072/recipe\.toml names no patch 0009-New\.patch"):
        staleness.check()
    stray.unlink()
    common = clone / "recipes/common/patches"
    common.mkdir()
    (common / "0001-New.patch").write_text("new")
    assert complaints() == ["recipes/common/patches/0001-New.patch"]


def test_a_lock_without_a_line_among_the_sums_and_a_line_without_a_lock(clone):
    path = clone / "locks" / sums.NAME
    lines = path.read_text().splitlines(keepends=True)
    (line,) = [line for line in lines if line.endswith(" vllm073/sources.json\n")]
    path.write_text("".join(each for each in lines if each is not line) + line.replace("073", "099"))
    assert complaints() == ["locks/vllm073/sources.json", "locks/vllm099/sources.json"]
