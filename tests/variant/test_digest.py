"""The digest: every byte that acts on an environment changes it, no sentence and no fact about a machine does."""

from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verlock.errors import LockError
from verlock.variant import digest, recipe
from verlock.variant.chosen import choose, names

VLLM072 = choose("vllm072").data
PATCH = "recipes/vllm072/patches/0002-Take-the-local-rank-from-LOCAL_RANK.patch"


def test_it_is_the_same_twice_and_for_the_default_python(clone):
    assert choose("vllm072").digest == choose("vllm072").digest == choose("vllm072", "3.10").digest
    assert re.fullmatch(r"[0-9a-f]{64}", choose("vllm072").digest)


# field by field ---------------------------------------------------------------------------------------


def fields(node=None, place=""):
    """Every leaf of the schema, such as `artefact.file.sha256`; a table without fixed keys is a leaf."""
    schema = recipe.schema()
    node = node or schema
    for option in node.get("anyOf", []):
        if option.get("type") != "null":
            node = option
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if node.get("type") == "array" and "$ref" in node["items"]:
        return fields(node["items"], place)
    if "properties" in node:
        return [leaf for key, each in node["properties"].items() for leaf in fields(each, f"{place}.{key}".lstrip("."))]
    return [place]


def decided(place):
    """True where the digest covers a field, False where it is left out; KeyError where nobody has decided."""
    if place in digest.COUNTS:
        assert place not in digest.LEFT_OUT
        return True
    digest.LEFT_OUT[place if place in digest.LEFT_OUT else f"*.{place.rsplit('.', 1)[1]}"]
    return False


# A recipe with every field, as plain data: what is not here cannot be changed one by one.
WHOLE = {
    "accepted": [{"package": "a", "id": "a", "reason": "a", "date": "2025-04-03", "link": "a"}],
    "summary": "a", "include": ["x"], "python": ["3.10"],
    "cutoff": {"date": "2025-04-03", "reason": "a", "link": "a"},
    "vllm": {"version": "1", "engine": "V0", "environment": {"A": "1"}, "llm": {"seed": 0}, "sleep_mode": True,
             "cuda_graphs": True, "compiles": False},
    "verl": {"version": "1", "reason": "a", "link": "a", "flags": ["a"], "flags_reason": "a"},
    "torch": {"version": "2.5", "cxx11abi": False, "capabilities": ["9.0"], "reason": "a", "link": "a"},
    "cuda": {"version": "12.4", "min_driver": "1", "reason": "a", "link": "a"},
    "platform": {"subdir": "linux-64", "glibc": "2.28", "linux": "4.18", "disk": 1, "reason": "a"},
    "sdist": [{"package": "a", "reason": "a", "link": "a"}],
    "prerelease": [{"package": "a", "reason": "a", "link": "a"}],
    "override": [{"requirer": "a", "requirement": "b<2", "reason": "a", "link": "a"}],
    "artefact": [{"package": "a", "version": "1", "optional": True, "reason": "a", "link": "a",
                  "sdist": {"filename": "a", "sha256": "a"},
                  "file": [{"torch": "2.5", "cxx11abi": False, "python": "3.10", "url": "a", "sha256": "a"}]}],
    "source": {"package": "a", "version": "1", "url": "a", "commit": "a", "tree": "a", "subject": "a",
               "date": "2025-02-24", "reason": "a", "link": "a",
               "precompiled": {"package": "a", "version": "1", "filename": "a", "sha256": "a", "size": 1, "reason": "a"}},
    "patch": [{"file": "0001-a.patch", "package": "a", "why": "a", "upstream": "a", "upstream_link": "a"}],
}  # fmt: skip
# These choose between an artefact's files: alone they take the file away, and together they change nothing.
CHOOSING = {"torch.version", "torch.cxx11abi", "artefact.file.torch", "artefact.file.cxx11abi", "artefact.file.python"}
OTHER = {bool: lambda value: not value, int: lambda value: value + 1, str: lambda value: f"{value}0",
         list: lambda value: [*value, "b"], dict: lambda value: {**value, "B": "2"}}  # fmt: skip


def changed(data, place):
    """A copy with this one field changed."""
    data = copy.deepcopy(data)
    *path, last = place.split(".")
    node = data
    for key in path:
        node = node[key]
        node = node[0] if isinstance(node, list) else node
    node[last] = OTHER[type(node[last])](node[last])
    return data


@pytest.fixture
def form(clone):
    """The document of a merged recipe, on vllm072's locks."""
    locks, patches = clone / "locks/vllm072", clone / "recipes/vllm072/patches"
    return lambda data: digest.form(data, "3.10", locks, patches)


@pytest.mark.parametrize("place", fields())
def test_each_field_is_decided_and_does_what_was_decided(form, place):
    try:
        counts = decided(place)
    except KeyError:
        pytest.fail(f"{place} is new: put it into COUNTS or LEFT_OUT of verlock/variant/digest.py")
    if place == "python":  # which lock is read is a parameter of its own
        return
    before, after = (digest.of_form(form(data)) for data in (WHOLE, changed(WHOLE, place)))
    assert (before != after) == (counts or place in CHOOSING)


def test_what_chooses_the_artefacts_file_counts_by_what_it_chooses_alone(form):
    data = copy.deepcopy(WHOLE)
    data["torch"]["version"] = data["artefact"][0]["file"][0]["torch"] = "2.6"
    assert form(data) == form(WHOLE)
    data["artefact"][0]["file"].append({**data["artefact"][0]["file"][0], "python": "3.11", "sha256": "other"})
    assert form(data) == form(WHOLE), "another Python's file is no part of this environment"


def test_no_decision_is_about_a_field_that_is_gone():
    there = {*fields(), *(f"*.{place.rsplit('.', 1)[1]}" for place in fields() if "." in place)}
    assert digest.COUNTS | digest.LEFT_OUT.keys() <= there


@given(st.permutations(sorted(WHOLE)))
def test_the_order_of_tables_and_keys_is_no_part_of_it(order):
    shuffled = {key: WHOLE[key] for key in order}
    assert digest._counted(shuffled) == digest._counted(WHOLE)
    assert digest.of_form(digest._counted(shuffled)) == digest.of_form(digest._counted(WHOLE))


def test_an_empty_table_is_as_none():
    data = copy.deepcopy(WHOLE)
    data["vllm"]["llm"], data["sdist"] = {}, []
    without = {**WHOLE, "vllm": {key: value for key, value in WHOLE["vllm"].items() if key != "llm"}}
    assert digest._counted(data) == digest._counted(without)


# the files --------------------------------------------------------------------------------------------


def test_a_block_moved_into_a_common_file_changes_nothing(clone, edit):
    before = choose("vllm083").digest
    path = clone / "recipes/vllm083/recipe.toml"
    block = re.search(r"\[\[patch\]\].*", path.read_text(), re.DOTALL)[0]
    (clone / "recipes/common/new.toml").write_text(block)
    edit(path, block, "")
    edit(path, '"verl-0.4"]', '"verl-0.4", "new"]')
    assert choose("vllm083").digest == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("conda-lock.yml", "sha256: 9", "sha256: 8"),
        ("conda-lock.yml", "noarch/wheel-", "noarch/other-"),
        ("requirements.txt", "ray==2.40.0", "ray==2.40.1"),
        ("requirements.txt", "--hash=sha256:0", "--hash=sha256:1"),
        ("build-requirements.txt", "wheel==0.45.1", "wheel==0.45.2"),
        ("sources.json", '"after": "', '"after": "0'),
    ],
)
def test_a_pin_a_hash_and_a_patched_file_count(clone, edit, file, old, new):
    before = choose("vllm072").digest
    edit(clone / "locks/vllm072" / file, old, new)
    assert choose("vllm072").digest != before


def test_comments_order_and_white_space_of_locks_do_not_count(clone):
    before = choose("vllm072").digest
    path = clone / "locks/vllm072/requirements.txt"
    _, *blocks = re.split(r"\n(?=\w)", path.read_text())
    assert len(blocks) > 100
    path.write_text("# another header\n\n" + "\n".join(reversed(blocks)).rstrip() + "\n    # via somebody\n")
    conda = clone / "locks/vllm072/conda-lock.yml"
    conda.write_text(conda.read_text().replace("environments/common", "environments/elsewhere"))
    sources = clone / "locks/vllm072/sources.json"
    sources.write_text(json.dumps(json.loads(sources.read_text())))
    assert choose("vllm072").digest == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 7), place=st.floats(0, 1, exclude_max=True))
def test_every_bit_of_a_patch_counts(form, clone, bit, place):
    path = clone / PATCH
    whole = path.read_bytes()
    before = form(VLLM072)
    data = bytearray(whole)
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    after = form(VLLM072)
    path.write_bytes(whole)
    assert before["patches"] != after["patches"] and digest.of_form(before) != digest.of_form(after)


def test_a_changed_patch_counts_and_one_that_no_recipe_names_does_not(clone):
    before = choose("vllm072").digest
    (clone / "recipes/vllm072/patches/0009-New.patch").write_text("new")
    assert choose("vllm072").digest == before
    (clone / PATCH).write_bytes((clone / PATCH).read_bytes() + b"\n")
    changed_patch = choose("vllm072").digest
    (clone / PATCH).unlink()
    assert len({before, changed_patch, choose("vllm072").digest}) == 3


def test_a_missing_sources_lock_counts(clone):
    before = choose("vllm072").digest
    (clone / "locks/vllm072/sources.json").unlink()
    assert choose("vllm072").digest != before


def test_another_python_has_another_digest(clone):
    for name in ("conda-lock.yml", "requirements.txt", "build-requirements.txt", "sources.json"):
        target = clone / "locks/vllm073/py311" / name
        target.write_bytes((clone / "locks/vllm073" / name).read_bytes())
    chosen = choose("vllm073", "3.11")
    assert chosen.digest != choose("vllm073").digest
    patches = clone / "recipes/vllm073/patches"
    first, other = (digest.form(each.data, each.python, each.locks, patches) for each in (choose("vllm073"), chosen))
    assert {key for key in first if first[key] != other[key]} == {"python", "recipe"}, "its artefact is another file"


@pytest.mark.parametrize("file", ["conda-lock.yml", "requirements.txt", "build-requirements.txt"])
def test_a_lock_that_is_not_there_is_said(clone, file):
    (clone / "locks/vllm073/py311" / file).unlink()
    with pytest.raises(LockError, match=rf"locks/vllm073/py311/{re.escape(file)} is missing"):
        choose("vllm073", "3.11").digest


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("sources.json", "{", "is not JSON"),
        ("requirements.txt", "torch", "not a pin"),
        ("requirements.txt", "# nothing\n", "has no pins"),
        ("conda-lock.yml", "package:\n- name: a\n", "without a sha256"),
    ],
)
def test_a_lock_that_cannot_be_read_is_said(clone, file, content, said):
    (clone / "locks/vllm073" / file).write_text(content)
    with pytest.raises(LockError, match=said):
        choose("vllm073").digest


@pytest.mark.parametrize("variant", names())
def test_the_digest_reads_the_recipe_as_the_model_does(variant):
    """Two readers of one recipe: what the plain one counts is what the validated one holds."""
    loaded = choose(variant).recipe
    for chosen in choose(variant).pythons():
        counted = digest._counted(digest._fitting(chosen.data, chosen.python))
        assert counted["vllm"]["engine"] == loaded.vllm.engine
        files = {item.package: item.file_for(loaded.torch, chosen.python) for item in loaded.artefact}
        got = {package: file["sha256"] for package, file in digest.artefact_files(chosen.data, chosen.python)}
        assert got == {package: file.sha256 for package, file in files.items() if file}
        assert got == {item["package"]: item["file"][0]["sha256"] for item in counted.get("artefact", [])}
