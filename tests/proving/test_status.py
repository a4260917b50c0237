"""The table of what is proven: certified, stale, partial, never; on the screen, as Markdown, and in the README."""

import json
import re

import pytest

from verlock import paths
from verlock.errors import RecipeError
from verlock.proving import status
from verlock.proving.kept_parts import Kept
from verlock.proving.passes import FULL, Pass
from verlock.smoke import gates
from verlock.system.gpu import Gpus
from verlock.variant import certificate
from verlock.variant.chosen import choose, names

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def proven(tmp_path, monkeypatch):
    """Certificates in a scratch folder: of today's lock ("now"), or of another one."""
    monkeypatch.setattr(paths, "CERTIFICATES", tmp_path)

    def add(variant, when, date="2025-05-01T10:00:00+00:00", gpu=H100, count=1, python="3.10", base="conda", **more):
        data = {
            "digest": choose(variant, python).digest if when == "now" else when,
            "date": date,
            "gpu": {"name": gpu, "count": count},
            "python": python,
            "standin": False,
            "receipt": {"base": {"kind": base, "version": "3.10.13"}, "missing": []},
        }
        path = tmp_path / variant / certificate.file_name(gpu, count, python, "3.10")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data | more))

    return add


def row(variant, python="3.10"):
    return next(each for each in status.rows() if (each.variant, each.python) == (variant, python))


def test_no_certificate_is_never(proven):
    assert {each.state for each in status.rows()} == {"never"}
    assert [each.variant for each in status.rows()] == status.by_version()
    assert row("vllm073").digest == choose("vllm073").digest


def test_a_certificate_of_todays_lock(proven):
    proven("vllm073", "now")
    assert (row("vllm073").state, row("vllm073").gpus, row("vllm073").date) == (
        "certified",
        "1 x H100 80GB HBM3",
        "2025-05-01",
    )
    assert row("v1").state == "never"


def test_a_pass_over_nodes_is_told_in_the_note_and_proves_nothing_by_itself(proven, tmp_path):
    proven("vllm073", "now", count=2, nodes=2, layouts=["2 ranks on 2 GPUs of 2 nodes"])
    (tmp_path / "vllm073" / "2-nodes").mkdir()
    (path,) = (tmp_path / "vllm073").glob("*.json")
    path.rename(path.parent / "2-nodes" / path.name)
    said = "passed on 2 ranks on 2 GPUs of 2 nodes (H100 80GB HBM3, 2025-05-01)"
    assert (row("vllm073").state, row("vllm073").note) == ("never", said)
    proven("vllm073", "now")
    assert (row("vllm073").state, row("vllm073").note) == ("certified", f"conda base, {said}")
    proven("vllm073", "then", count=2, nodes=2, layouts=["2 ranks on 2 GPUs of 2 nodes"])
    (path.parent / path.name).rename(path.parent / "2-nodes" / path.name)  # of an older lock
    assert row("vllm073").note == "conda base"


def green(part):
    return Pass(part.mode, part.tp, "", [gates.Gate("1", gates.PASS, "all", "all")], 50.0)


def test_launches_that_are_kept_make_it_partial_and_the_note_says_what_is_left(proven, tmp_path):
    machine = Gpus(H100, 1, 81559, "580.159.04")
    identity = {"digest": choose("vllm073").digest, "python": "3.10", "gpu": H100}
    first, *left = FULL
    for digest, part in (("another", left[0]), (identity["digest"], first)):
        Kept("vllm073", {**identity, "digest": digest}).keep(part, machine, [green(part)])
    said = (
        "1 of 6 launches are green; left: 1 rank TP=1 graphs, verl's steps, 2 ranks TP=2 eager, 2 ranks TP=2 graphs, "
        "2 ranks TP=1 eager"
    )
    assert (row("vllm073").state, row("vllm073").gpus, row("vllm073").note) == ("partial", "H100 80GB HBM3", said)
    proven("vllm073", "then")
    assert row("vllm073").state == "stale"


def test_a_changed_lock_makes_it_stale(proven):
    proven("vllm073", "then")
    assert row("vllm073").state == "stale"
    assert row("vllm073").digest == choose("vllm073").digest


def test_a_stale_certificate_beside_a_valid_one_does_not_count(proven):
    proven("vllm073", "now", date="2025-05-01T10:00:00+00:00")
    proven("vllm073", "then", date="2025-06-01T10:00:00+00:00", gpu="NVIDIA H200", count=2)
    assert (row("vllm073").state, row("vllm073").gpus) == ("certified", "1 x H100 80GB HBM3")


def test_all_gpus_it_was_proven_on_are_named(proven):
    proven("vllm073", "now")
    proven("vllm073", "now", gpu="NVIDIA H200", count=2, standin=True)
    assert set(row("vllm073").gpus.split(", ")) == {"1 x H100 80GB HBM3", "2 x H200"}
    assert row("vllm073").note == "conda base, verl's step with an sdpa stand-in for flash-attn"


def test_what_ran_with_edits_is_shown_only_where_nothing_else_is(proven):
    edited = {"editable": {"verl": {"commit": "c", "differs": {"a.py": "0"}}}}
    base = {"base": {"kind": "host", "version": "3.10.13"}, "missing": []}
    proven("vllm073", "now", gpu="NVIDIA H200", receipt={**base, **edited})
    assert row("vllm073").note == "host base, editable verl, 1 file edited"
    proven("vllm073", "now", gpu="NVIDIA L4", base="host")
    assert row("vllm073").note == "host base" and "L4" in row("vllm073").gpus


def test_a_host_base_is_said(proven):
    proven("vllm073", "now", base="host")
    assert row("vllm073").note == "host base"


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        ({"bfloat16": [64, 128]}, ", partial: bf16, head 64 and 128"),
        ({dtype: [32, 64, 96, 128, 160, 192, 224, 256] for dtype in ("float16", "bfloat16")}, ""),
    ],
)
def test_a_site_wheel_is_named_with_the_kernels_it_has(proven, kernels, said):
    wheels = {"flash-attn": {"file": "a.whl", "version": "2.7.4+cu12", "sha256": "0123456789" * 6 + "0123"}}
    sealed = {"base": {"kind": "conda", "version": "3.10.13"}, "missing": [], "site_wheels": wheels}
    proven("vllm073", "now", receipt=sealed, flash_attn=kernels)
    assert row("vllm073").note == f"conda base, flash-attn 2.7.4, site wheel 01234567{said}"


def test_how_several_ranks_were_laid_out_is_said(proven):
    proven("vllm073", "now", layouts=["1 rank", "2 ranks sharing 1 GPU"])
    assert row("vllm073").gpus == "1 x H100 80GB HBM3 (2 ranks sharing 1 GPU)"
    proven("vllm073", "now", layouts=["1 rank"])
    assert row("vllm073").gpus == "1 x H100 80GB HBM3"


def test_another_python_has_a_row_of_its_own(proven):
    assert [each.python for each in status.rows() if each.variant == "vllm073"] == ["3.10"]
    proven("vllm073", "now", python="3.11")
    assert row("vllm073").state == "never"
    assert row("vllm073", "3.11").state == "certified"


def test_a_variant_without_a_lock_or_with_a_wrong_recipe_has_a_row_that_says_so(clone, edit):
    (clone / "locks/v1/requirements.txt").unlink()
    edit(clone / "recipes/vllm072/recipe.toml", "summary =", "sumary =")
    found = {each.variant: each for each in status.rows()}
    assert set(found) == set(names())
    assert (found["v1"].state, found["v1"].note) == ("never", "not locked")
    assert found["vllm072"].state == "never"
    assert "recipes/vllm072/recipe.toml" in found["vllm072"].note
    assert "| `vllm072` | | | | | never | | " in status.as_markdown()


def test_variants_come_by_their_version_of_vllm_and_broken_ones_last(clone, edit):
    assert status.by_version()[:5] == ["vllm070", "vllm071", "vllm072", "vllm073", "v1"]
    assert sorted(status.by_version()) == names()
    (clone / "recipes/vllm072/recipe.toml").write_text("nonsense")
    edit(clone / "recipes/vllm070/recipe.toml", 'version = "0.7.0"', 'version = "latest"')
    assert status.by_version()[:2] == ["vllm071", "vllm073"] and status.by_version()[-2:] == ["vllm070", "vllm072"]


def test_the_readmes_table_is_replaced_between_its_markers(proven):
    proven("vllm073", "now")
    text = status.in_readme(f"# verlock\n{status.BEGIN}\nold\n{status.END}\nrest\n")
    assert re.search(
        r"\| `vllm073` \| 0\.7\.3 \| V0, patched \| .*3\.10.* \| certified \| 1 x H100 80GB HBM3, \d{4}-", text
    )
    assert "\nold\n" not in text
    assert text.startswith("# verlock\n")
    assert text.endswith("\nrest\n")
    assert status.in_readme(text) == text
    assert status.in_readme("no markers") == "no markers"


def test_the_readme_is_brought_up_to_date(clone):
    readme = clone / "README.md"
    readme.write_text(f"# verlock\n{status.BEGIN}\nold\n{status.END}\nrest\n")
    assert status.show(write_readme=True) == 0
    assert readme.read_text() == f"# verlock\n{status.BEGIN}\n{status.as_markdown()}\n{status.END}\nrest\n"


def test_the_table_is_printed(proven, capsys):
    proven("vllm073", "then")
    assert status.show() == 0
    assert "stale" in capsys.readouterr().out
    assert status.show(markdown=True) == 0
    assert "| `vllm073` |" in capsys.readouterr().out


def test_limits_are_told_with_their_source_and_the_table_links_to_them(proven, tmp_path):
    assert "limits.md#vllm073" not in status.as_markdown()
    (tmp_path / "vllm073").mkdir()
    (tmp_path / "vllm073/limits.toml").write_text('[[limit]]\nsays = "No MLA."\nseen = "https://a"\n')
    assert [(each.says, each.link) for each in status.limits_of("vllm073")] == [("No MLA.", "[seen](https://a)")]
    assert "[limits](docs/limits.md#vllm073)" in status.as_markdown()
    assert "[limits](limits.md#vllm073)" in status.as_markdown("limits.md")
    (tmp_path / "vllm073/limits.toml").write_text('[[limit]]\nsays = "No MLA."\n')
    with pytest.raises(RecipeError, match="each"):
        status.as_markdown()


def test_the_readme_in_the_repository_is_current():
    readme = paths.ROOT / "README.md"
    if not readme.exists() or status.BEGIN not in readme.read_text(encoding="utf-8"):
        pytest.skip("README.md has no table of certificates yet")
    text = readme.read_text(encoding="utf-8")
    assert status.in_readme(text) == text, "run `verlock status --readme`"


def test_what_a_variant_sets_aside_is_among_its_limits(clone, edit):
    recipe = clone / "recipes/vllm073/recipe.toml"
    recipe.write_text(
        f'{recipe.read_text()}\n[[override]]\nrequirer = "verl"\nrequirement = "numpy<2"\nreason = "It works."\n'
        'link = "https://example.org/1"\n'
    )
    aside = certificate.Limit("Set aside, verl asks for numpy<2: It works.", "[seen](https://example.org/1)")
    assert status.limits_of("vllm073")[0] == aside and "docs/limits.md#vllm073" in status.as_markdown()
