"""The digest: every byte that acts on an environment changes it, and no sentence does."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from verlock import digest, recipe
from verlock.errors import LockError, RecipeError

PATCH = "recipes/vllm072/patches/0002-Take-the-local-rank-from-LOCAL_RANK.patch"
FILES = [f"locks/vllm072/{name}" for name in digest.LOCK_FILES] + [PATCH]


def test_it_is_the_same_twice_and_for_the_default_python(clone):
    assert digest.of("vllm072") == digest.of("vllm072") == digest.of("vllm072", "3.10")
    assert re.fullmatch(r"[0-9a-f]{64}", digest.of("vllm072"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_bit_of_locks_and_patches_counts(clone, file, place, bit):
    path = clone / file
    good = path.read_bytes()
    before = digest.of("vllm072")
    bad = bytearray(good)
    where = int(place * len(bad))
    line = good[good.rfind(b"\n", 0, where) + 1 :].partition(b"\n")[0]
    bad[where] ^= 1 << bit
    path.write_bytes(bad)
    try:
        if path.suffix == ".patch" or not line.lstrip().startswith(b"#"):
            assert digest.of("vllm072") != before
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("file", ["locks/vllm072/requirements.txt", "locks/vllm072/conda-lock.yml"])
def test_comments_of_locks_do_not_count(clone, file):
    before = digest.of("vllm072")
    path = clone / file
    path.write_text("# another header\n\n" + path.read_text() + "    # via somebody\n")
    assert digest.of("vllm072") == before


def test_an_added_patch_and_a_missing_sources_lock_count(clone):
    before = digest.of("vllm072")
    (clone / "recipes/vllm072/patches/0009-New.patch").write_text("new")
    added = digest.of("vllm072")
    (clone / "locks/vllm072/sources.json").unlink()
    assert len({before, added, digest.of("vllm072")}) == 3


def test_bytes_moved_from_one_file_to_the_next_count(clone):
    one, two = (clone / f"locks/vllm072/{name}" for name in ("conda-lock.yml", "requirements.txt"))
    before = digest.of("vllm072")
    text = one.read_bytes()
    one.write_bytes(text[:-10])
    two.write_bytes(text[-10:] + two.read_bytes())
    assert digest.of("vllm072") != before


ACTING = [
    ('VLLM_USE_V1 = "0"', 'VLLM_USE_V1 = "1"'),
    ('VLLM_USE_V1 = "0"', 'VLLM_USE_V1 = "0"\nreason = "an odd name for a variable"'),
    ('engine = "V0"', 'engine = "V1"'),
    ("sleep_mode = true", "sleep_mode = false"),
    ("enforce_eager=False", "enforce_eager=True"),
    ('min_driver = "525.60.13"', 'min_driver = "999.9"'),
    ('sha256 = "c59b', 'sha256 = "d59b'),
    ('package = "antlr4-python3-runtime"', 'package = "other"'),
]
PROSE = [
    ("summary = ", "summary = 'Better' # "),
    ('reason = "vLLM', 'reason = "The engine vLLM'),
    ('link = "https://', 'link = "https://www.'),
    ('why = "', 'why = "Because: '),
    ('flags_reason = "', 'flags_reason = "Really: '),
    ("date = 20", "date = 19"),
    ("disk = ", "disk = 1"),
    ("# ", "# # "),
]


def test_settings_of_the_engine_count(clone):
    path = clone / "recipes/vllm072/recipe.toml"
    good = path.read_text()
    seen = {digest.of("vllm072")}
    for old, new in ACTING:
        assert old in good, old
        path.write_text(good.replace(old, new, 1))
        seen.add(digest.of("vllm072"))
    assert len(seen) == len(ACTING) + 1


def test_prose_does_not_count(clone):
    path = clone / "recipes/vllm072/recipe.toml"
    good = path.read_text()
    before = digest.of("vllm072")
    changed = 0
    for old, new in PROSE:
        text = good.replace(old, new)
        changed += text != good
        path.write_text(text)
        assert digest.of("vllm072") == before, (old, new)
    assert changed >= 5, "the recipe no longer holds what this test changes"


def test_another_python_has_another_digest_and_no_lock_is_said(clone):
    for name in digest.LOCK_FILES[:3]:
        target = clone / "locks/vllm073/py311" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((clone / "locks/vllm073" / name).read_bytes())
    assert digest.of("vllm073", "3.11") != digest.of("vllm073", "3.10"), "its artefact is another file"
    with pytest.raises(LockError, match=r"vllm073 has no conda-lock\.yml for Python 3\.13"):
        digest.of("vllm073", "3.13")


@pytest.mark.parametrize("content", [b"nonsense", b"\xff", b"python = 3.1\n", b"python = []\n", b"summary = 'x'\n"])
def test_a_recipe_that_cannot_be_read(clone, content):
    (clone / "recipes/vllm073/recipe.toml").write_bytes(content)
    with pytest.raises(RecipeError):
        digest.of("vllm073")


def test_fields_of_the_model_are_either_acting_or_left_out_on_purpose():
    """A new field must be put on one side or the other."""
    left_out = {"summary", "python", "cutoff", "platform"}
    assert set(recipe.Recipe.model_fields) == set(digest._ACTING) | left_out


def test_of_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert digest.of_file(tmp_path / "x").startswith("ba7816bf")
