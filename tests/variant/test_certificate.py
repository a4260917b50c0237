"""Certificates and the table of what is proven: certified, stale, never."""

import json
import re

import pytest

from verlock import certificate, project, recipe

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
    """Certificates in a scratch folder, for variants whose digest is 'now'."""
    monkeypatch.setattr(project, "CERTIFICATES", tmp_path)
    monkeypatch.setattr(certificate.digest, "of", lambda variant, python: "now")

    def add(variant, digest, date="2025-05-01T10:00:00+00:00", gpu=H100, count=1, python="3.10", standin=False, **more):
        data = {
            **more,
            "digest": digest,
            "date": date,
            "gpu": {"name": gpu, "count": count},
            "python": python,
            "standin": standin,
        }
        path = tmp_path / variant / certificate.file_name(gpu, count, python, "3.10")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(data))

    return add


def row(variant, python="3.10"):
    return next(each for each in certificate.rows() if (each.variant, each.python) == (variant, python))


def test_no_certificate_is_never(proven):
    assert {each.state for each in certificate.rows()} == {"never"}
    assert [each.variant for each in certificate.rows()] == recipe.names()


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
    assert "sdpa stand-in" in row("vllm073").note


def test_how_several_ranks_were_laid_out_is_said(proven):
    proven("vllm073", "now", layouts=["1 rank", "2 ranks sharing 1 GPU"])
    assert row("vllm073").gpus == "1 x H100 80GB HBM3 (2 ranks sharing 1 GPU)"


def test_another_python_has_a_row_of_its_own(proven):
    proven("vllm073", "now", python="3.11")
    assert row("vllm073").state == "never"
    assert row("vllm073", "3.11").state == "certified"


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


def test_the_readme_in_the_repository_is_current():
    readme = project.ROOT / "README.md"
    if not readme.exists() or certificate.BEGIN not in readme.read_text(encoding="utf-8"):
        pytest.skip("README.md has no table of certificates yet")
    text = readme.read_text(encoding="utf-8")
    assert certificate.in_readme(text) == text, "run `verlock status --readme`"


def test_the_certificates_in_the_repository_are_passes():
    for path in sorted(project.CERTIFICATES.glob("*/*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert data["variant"] == path.parent.name
        verdicts = {gate["verdict"] for each in [*data["runs"], data["verl"]] for gate in each["gates"]}
        assert verdicts == {"pass"}, path
