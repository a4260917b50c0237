"""Which variant is nearest: to a paper, to a version of a package; and what is said where nothing is."""

from __future__ import annotations

import re

import pytest

from verlock.errors import NothingFound, RecipeError
from verlock.locking import find
from verlock.variant.chosen import names

LOCKED = {
    "old": {"vllm": "0.7.3", "verl": "0.3.0.post1", "torch": "2.5.1", "transformers": "4.49.0"},
    "mid": {"vllm": "0.8.3", "verl": "0.4.0", "torch": "2.6.0", "transformers": "4.51.3"},
    "late": {"vllm": "0.8.5.post1", "verl": "0.4.1", "torch": "2.6.0", "transformers": "4.52.4", "odd": "1"},
    "new": {"vllm": "0.24.0", "verl": "0.9.1", "torch": "2.11.0", "transformers": "5.9.0"},
}


@pytest.fixture
def locked(monkeypatch):
    monkeypatch.setattr(find, "pins", lambda: LOCKED)


@pytest.mark.parametrize(
    ("package", "version", "wanted"),
    [
        ("vllm", "0.8.3", [("mid", "the same")]),
        ("torch", "2.6.0", [("mid", "the same"), ("late", "the same")]),
        ("transformers", "4.51", [("mid", "a 4.51")]),
        ("vllm", "0.8.5", [("late", "a 0.8.5")]),
        ("vllm", "0.8", [("mid", "a 0.8"), ("late", "a 0.8")]),
        ("vllm", "0.8.2", [("mid", "the same 0.8"), ("late", "the same 0.8"), ("old", "an older release")]),
        ("vllm", "0.9.1", [("late", "an older release"), ("mid", "an older release"), ("old", "an older release")]),
        ("vllm", "3.0", [("new", "an older release"), ("late", "an older release"), ("mid", "an older release")]),
        ("vllm", "0.6.3", [("old", "a newer release"), ("mid", "a newer release"), ("late", "a newer release")]),
        ("odd", "2", [("late", "an older release")]),
        ("none", "2", []),
    ],
)
def test_the_nearest_variants(package, version, wanted):
    assert [(each.variant, each.near) for each in find.matches(package, version, LOCKED)] == wanted


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            ["vllm", "0.8.3"],
            ["vllm 0.8.3", "  mid        vllm 0.8.3, the same; verl 0.4.0, torch 2.6.0, transformers 4.51.3"],
        ),
        (
            ["vLLM==0.8.3"],
            ["vllm 0.8.3", "  mid        vllm 0.8.3, the same; verl 0.4.0, torch 2.6.0, transformers 4.51.3"],
        ),
        (["0.9.1"], ["verl 0.9.1", "  new        verl 0.9.1, the same; vllm 0.24.0, torch 2.11.0, transformers 5.9.0"]),
        (["odd"], ["late       odd 1"]),
        (
            ["verl"],
            ["old        verl 0.3.0.post1", "mid        verl 0.4.0", "late       verl 0.4.1", "new        verl 0.9.1"],
        ),
    ],
)
def test_what_is_printed_for_a_package_or_a_version(locked, capsys, words, lines):
    assert find.run(words) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_a_version_that_neither_vllm_nor_verl_has_is_taken_for_vllm_s(locked, capsys):
    find.run(["0.8.2"])
    assert capsys.readouterr().out.startswith("vllm 0.8.2\n  mid ")


@pytest.mark.parametrize("words", [["dapo"], ["DAPO"], ["d a p o"]])
def test_a_paper_is_found_however_it_is_written(capsys, words):
    assert find.run(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("DAPO\n") and "vllm 0.8.3 (the same)" in said and "nox -s env-vllm083" in said


@pytest.mark.parametrize("words", [["dappo"], ["transformerz", "4.51"], ["vllm", "newest"], ["vllm", "1", "2"], ["x"]])
def test_nothing_found_is_an_error_with_a_hint(locked, words):
    with pytest.raises(NothingFound, match="nothing here is called") as caught:
        find.run(words)
    assert {"dappo": "DAPO", "transformerz": "transformers"}.get(words[0], "") in caught.value.remedy


def test_a_variant_that_is_broken_is_left_out_and_said(clone, capsys):
    (clone / "locks/vllm083/requirements.txt").unlink()
    found = find.pins()
    assert "vllm083" not in found and "vllm073" in found and found["v1"]["vllm"].startswith("0.7.4.dev65")
    assert "vllm083 is left out" in capsys.readouterr().err
    assert find.told(next(paper for paper in find.read() if paper.name == "DAPO"), found)[3].startswith(
        "  nearest  vllm083"
    )


def test_a_broken_papers_toml_is_named(clone):
    (clone / "recipes/papers.toml").write_text("[[paper]]\nname = 'x'\n")
    with pytest.raises(RecipeError, match=r"recipes/papers\.toml: paper\.0\.says"):
        find.read()


class TestPapers:
    """The table itself."""

    def test_each_row_links_a_file_at_one_commit_and_each_name_stands_once(self):
        papers = find.read()
        every = [find._plain(name) for paper in papers for name in (paper.name, *paper.also)]
        assert len(set(every)) == len(every) and len(papers) >= 15
        for paper in papers:
            assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{40}/\S+", paper.link), paper.name
            assert all(version in paper.says for version in paper.stack.values()), paper.name

    def test_each_row_names_a_variant_that_no_other_beats_and_is_as_near_as_it_says(self):
        locked = find.pins()
        for paper in find.read():
            assert paper.variant in ("", *names())
            if not paper.variant:
                assert paper.near.startswith("no variant is near")
            elif "vllm" in paper.stack:
                own, asked = locked[paper.variant]["vllm"], paper.stack["vllm"]
                best = find.matches("vllm", asked, locked)
                assert find._distance(find.release(asked), find.release(own)) <= find._distance(
                    find.release(asked), find.release(best[0].version)
                ) or "the same verl" in paper.near, paper.name  # fmt: skip
                assert (own == asked) == bool(re.search(r"the (same )?vLLM", paper.near)), paper.name
