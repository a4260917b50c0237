"""Certificates as files: their names, how they are read, and the limits beside them."""

import json

import pytest

from verlock import paths
from verlock.errors import CertificateError, RecipeError
from verlock.variant import certificate, recipe_file
from verlock.variant.certificate import Limit
from verlock.variant.chosen import names

WHOLE = {
    "date": "2025-05-01",
    "python": "3.10",
    "digest": "a",
    "gpu": {"name": "G", "count": 1},
    "standin": True,
    "receipt": {"base": {"kind": "host", "version": "3.10.13"}, "missing": []},
}
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
def folder(tmp_path, monkeypatch):
    """The certificates of vllm073, in a scratch folder."""
    monkeypatch.setattr(paths, "CERTIFICATES", tmp_path)
    (tmp_path / "vllm073").mkdir()
    return tmp_path / "vllm073"


def test_certificates_are_read_with_the_newest_first_and_without_parts_and_reports(folder):
    for place, day in (("a.json", 1), ("b.json", 3), ("c.json", 2), ("parts/d.json", 4), ("reports/e.json", 5)):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(json.dumps({**WHOLE, "date": f"2025-05-0{day}T10:00:00+00:00"}))
    assert [each["date"][:10] for each in certificate.read("vllm073")] == ["2025-05-03", "2025-05-02", "2025-05-01"]
    assert certificate.read("v1") == []


def stated(**changes):
    """A certificate as a statement, with these changes of the statement."""
    whole = {
        **WHOLE,
        "variant": "vllm073",
        "runs": [],
        "verl": {"mode": "verl", "ranks": 1, "tp": 1, "gates": [{"id": "verl"}]},
    }
    whole["receipt"] = {**WHOLE["receipt"], "patches": [], "site_wheels": {}}
    return {**certificate.statement(whole), **changes}


def test_statements_and_bare_certificates_are_read_alike(folder):
    (folder / "a.json").write_text(json.dumps(stated()))
    (folder / "b.json").write_text(json.dumps({**WHOLE, "date": "2025-04-01"}))
    first, second = certificate.read("vllm073")
    assert first["date"] == "2025-05-01" and second == {**WHOLE, "date": "2025-04-01"}
    assert {key: first[key] for key in ("digest", "gpu", "python")} == {
        key: second[key] for key in ("digest", "gpu", "python")
    }


OTHER = {"name": "x", "digest": {"sha256": "b"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": [OTHER]},
        {"subject": []},
        {"subject": [OTHER, OTHER]},
        {"_type": "https://in-toto.io/Statement/v0.1"},
        {"predicateType": "https://slsa.dev/provenance/v1"},
        {"predicate": {}},
        {"predicate": None},
        {"predicate": {**stated()["predicate"], "result": "FAILED"}},
    ],
)
def test_a_statement_about_something_else_is_no_certificate(folder, changes):
    (folder / "a.json").write_text(json.dumps(stated(**changes)))
    with pytest.raises(CertificateError, match=r"a\.json is not a certificate"):
        certificate.read("vllm073")


def test_a_limit_has_a_link_to_where_it_was_seen(folder):
    assert certificate.limits("vllm073") == []
    (folder / "limits.toml").write_text(
        '[[limit]]\nsays = "No MLA."\nseen = "https://a"\n[[limit]]\nsays = "No V1."\nseen = "reports/b.json"\n'
    )
    at = paths.shown(folder)
    assert certificate.limits("vllm073") == [
        Limit("No MLA.", "[seen](https://a)"),
        Limit("No V1.", f"[seen]({at}/reports/b.json)"),
    ]


@pytest.mark.parametrize(
    "text", ['[[limit]]\nsays = "No MLA."\n', '[[limit]]\nseen = "https://a"\n', "", "limit = 3\n", "[[limit]\n"]
)
def test_a_limit_that_says_too_little_is_refused_with_the_files_name(folder, text):
    (folder / "limits.toml").write_text(text)
    with pytest.raises(RecipeError, match=r"limits\.toml"):
        certificate.limits("vllm073")


@pytest.mark.parametrize("variant", names())
def test_every_limit_says_where_it_was_seen_and_that_is_this_variants_own(variant):
    folder = paths.CERTIFICATES / variant
    for entry in recipe_file.toml(folder / "limits.toml")["limit"] if (folder / "limits.toml").exists() else []:
        assert entry["seen"].startswith("https://") or (folder / entry["seen"]).is_file(), entry


def test_the_certificates_in_the_repository_are_passes():
    there = sorted(paths.CERTIFICATES.glob("*/*.json"))
    assert there
    for path in there:
        data = certificate.of(json.loads(path.read_text(encoding="utf-8")))
        assert data["variant"] == path.parent.name
        verdicts = {gate["verdict"] for each in [*data["runs"], data["verl"]] for gate in each["gates"]}
        assert verdicts == {"pass"}, path
