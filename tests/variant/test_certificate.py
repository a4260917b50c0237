"""Certificates and the table of what is proven: certified, stale, never."""

from __future__ import annotations

import json
import re

import pytest

from verlock import paths
from verlock.errors import RecipeError
from verlock.variant import certificate
from verlock.variant.chosen import choose, names

H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("gpu", "count", "python", "name"),
    [
        (H100, 1, "3.10", "h100-80gb-hbm3x1.json"),
        ("NVIDIA H200", 2, "3.10", "h200x2.json"),
        ("NVIDIA GeForce RTX 4090", 1, "3.11", "geforce-rtx-4090x1-py311.json"),
        ("NVIDIA A100-SXM4-40GB", 8, "3.12", "a100-sxm4-40gbx8-py312.json"),
    ],
)
def test_the_file_name_says_on_what(gpu, count, python, name):
    assert certificate.file_name(gpu, count, python, "3.10") == name


@pytest.fixture
def proven(tmp_path, monkeypatch):
    """Certificates in a scratch folder: `now` of the digest that the variant has, else of another one."""
    monkeypatch.setattr(paths, "CERTIFICATES", tmp_path)

    def add(
        variant, of, date="2025-05-01T10:00:00+00:00", gpu=H100, count=1, python="3.10", standin=False, base="conda"
    ):
        data = {
            "digest": choose(variant, python).digest if of == "now" else "0" * 64,
            "date": date,
            "gpu": {"name": gpu, "count": count},
            "python": python,
            "standin": standin,
            "receipt": {"base": {"kind": base, "version": "3.10.13"}, "missing": ["flash-attn"] if standin else []},
        }
        path = tmp_path / variant / certificate.file_name(gpu, count, python, "3.10")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data))

    return add


def row(variant, python="3.10"):
    return next(each for each in certificate.rows() if (each.variant, each.python) == (variant, python))


def test_no_certificate_is_never(proven):
    assert {each.state for each in certificate.rows()} == {"never"}
    assert [each.variant for each in certificate.rows()] == names()


def test_a_certificate_of_todays_lock(proven):
    proven("vllm073", "now")
    assert (row("vllm073").state, row("vllm073").gpus, row("vllm073").date) == (
        "certified",
        "1 x H100 80GB HBM3",
        "2025-05-01",
    )
    assert row("v1").state == "never"


def test_a_changed_lock_makes_it_stale(proven):
    proven("vllm073", "then")
    assert row("vllm073").state == "stale"


def test_a_stale_certificate_beside_a_valid_one_does_not_count(proven):
    proven("vllm073", "now", date="2025-05-01T10:00:00+00:00")
    proven("vllm073", "then", date="2025-06-01T10:00:00+00:00", gpu="NVIDIA H200", count=2)
    assert (row("vllm073").state, row("vllm073").gpus) == ("certified", "1 x H100 80GB HBM3")


def test_all_gpus_it_was_proven_on_are_named(proven):
    proven("vllm073", "now")
    proven("vllm073", "now", gpu="NVIDIA H200", count=2, standin=True)
    assert set(row("vllm073").gpus.split(", ")) == {"1 x H100 80GB HBM3", "2 x H200"}
    assert row("vllm073").note == "conda base, verl's step with an sdpa stand-in for flash-attn"


def test_a_host_base_is_said(proven):
    proven("vllm073", "now", base="host")
    assert row("vllm073").note == "host base"


def test_another_python_has_a_row_of_its_own(proven):
    proven("vllm073", "now", python="3.11")
    assert row("vllm073").state == "never"
    assert row("vllm073", "3.11").state == "certified"


def test_what_cannot_be_read_has_a_row_that_says_so(clone, proven, edit):
    proven("vllm072", "now")
    (clone / "locks/vllm072/requirements.txt").unlink()
    edit(clone / "recipes/vllm071/recipe.toml", "summary", "sumary")
    assert (row("vllm072").state, row("vllm072").note) == ("never", "not locked")
    broken = row("vllm071", "")
    assert broken.state == "never" and "recipes/vllm071/recipe.toml" in broken.note
    assert row("vllm073").note == ""


def test_the_readmes_table_is_replaced_between_its_markers(proven):
    proven("vllm073", "now")
    text = certificate.in_readme(f"# verlock\n{certificate.BEGIN}\nold\n{certificate.END}\nrest\n")
    assert re.search(
        r"\| `vllm073` \| 0\.7\.3 \| V0, patched \| .*3\.10.* \| certified \| 1 x H100 80GB HBM3, \d{4}-", text
    )
    assert "\nold\n" not in text
    assert text.startswith("# verlock\n")
    assert text.endswith("\nrest\n")
    assert certificate.in_readme(text) == text
    assert certificate.in_readme("no markers") == "no markers"


def test_the_table_is_printed(proven, capsys):
    proven("vllm073", "then")
    assert certificate.status() == 0
    assert "stale" in capsys.readouterr().out
    assert certificate.status(markdown=True) == 0
    assert "| `vllm073` |" in capsys.readouterr().out


def test_limits_are_listed_with_their_source(proven, tmp_path):
    (tmp_path / "vllm073").mkdir()
    (tmp_path / "vllm073/limits.toml").write_text('[[limit]]\nsays = "No MLA."\nseen = "https://a"\n')
    assert certificate.as_markdown().endswith("- `vllm073`: No MLA. ([seen](https://a))")
    (tmp_path / "vllm073/limits.toml").write_text('[[limit]]\nsays = "No MLA."\n')
    with pytest.raises(RecipeError, match="each"):
        certificate.as_markdown()
