"""Known vulnerabilities: what is found, what the recipe accepts, and what is never taken for an answer."""

from __future__ import annotations

import json
import zipfile

import pytest

from verlock import cli
from verlock.errors import AuditIncomplete, NetworkError, VulnerabilityFound
from verlock.shipping import audit
from verlock.variant.chosen import choose


def advisory(name="GHSA-1", package="alpha", aliases=(), versions=(), ranges=(), **more):
    entry = {"package": {"name": package, "ecosystem": "PyPI"}, "versions": list(versions), "ranges": list(ranges)}
    return {"id": name, "aliases": list(aliases), "summary": f"{package} is broken", "affected": [entry], **more}


def span(*events):
    return {"type": "ECOSYSTEM", "events": [{kind: version} for kind, version in events]}


@pytest.fixture
def file(tmp_path):
    def write(*records):
        path = tmp_path / "advisories.json"
        path.write_text(json.dumps(list(records)))
        return path

    return write


def accept(small, name, package="alpha"):
    with small.recipe.open("a") as recipe:
        recipe.write(
            f'[[accepted]]\npackage = "{package}"\nid = "{name}"\nreason = "nobody calls it"\ndate = 2026-01-02\n'
        )


def test_a_planted_advisory_is_found_by_pip_audit_and_has_its_own_exit_code(small, file, capsys):
    path = file(
        advisory("GHSA-1", "Alpha", aliases=["CVE-1"], ranges=[span(("introduced", "0"), ("fixed", "1.1"))]),
        advisory("GHSA-2", "beta", versions=["0.9"]),
        advisory("GHSA-3", "gamma", versions=["1.0"]),
    )
    assert cli.main(["audit", "toy", "--advisories", str(path)]) == VulnerabilityFound.exit_code == 63
    err = capsys.readouterr().err
    assert (
        "has known vulnerabilities that its recipe does not accept: 1\n" in err
        and "alpha 1.0: CVE-1, GHSA-1;" in err
        and "Alpha is broken" in err
    )
    assert "GHSA-2" not in err and "GHSA-3" not in err


@pytest.mark.parametrize("name", ["GHSA-1", "CVE-1"])
def test_an_accepted_one_is_shown_with_its_reason_and_passes(small, file, capsys, name):
    accept(small, name)
    path = file(advisory("GHSA-1", aliases=["CVE-1"], versions=["1.0"]))
    assert cli.main(["audit", "toy", "--advisories", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "accepted on 2026-01-02: alpha 1.0: CVE-1, GHSA-1;" in out and "nobody calls it" in out
    assert f"nothing that is not accepted, by {path}" in err


def test_what_is_accepted_of_one_package_is_not_of_another_and_what_is_not_found_is_said(small, file, capsys):
    accept(small, "GHSA-1", package="beta")
    path = file(advisory("GHSA-1", versions=["1.0"]))
    assert cli.main(["audit", "toy", "--advisories", str(path)]) == 63
    assert "the recipe accepts GHSA-1 of beta, which was not found" in capsys.readouterr().err


def test_a_withdrawn_advisory_counts_for_nothing(small, file):
    path = file(advisory(versions=["1.0"], withdrawn="2025-01-01T00:00:00Z"))
    assert cli.main(["audit", "toy", "--advisories", str(path)]) == 0


def test_a_service_that_does_not_answer_is_no_clean_bill(small, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="does not answer") as caught:
        audit.run(small.chosen, None)
    assert "--advisories FILE" in caught.value.remedy
    assert len(caught.value.problem.splitlines()) == 2, (
        "the last line of what pip-audit said, without the rest of its traceback"
    )


def test_a_package_that_pip_audit_skips_is_no_clean_bill():
    report = [{"name": "alpha", "skip_reason": "not found"}, {"name": "beta", "version": "1.0", "vulns": []}]
    with pytest.raises(AuditIncomplete, match="left out alpha, gamma"):
        audit._found(report, {"alpha": "1.0", "beta": "1.0", "gamma": "1.0"})


def test_artefacts_and_what_is_built_from_source_are_asked_about():
    listed = audit.packages(choose("v1"))
    assert listed["vllm"] == choose("v1").recipe.source.version
    assert listed["flash-attn"] == "2.8.3" and listed["torch"] == "2.5.1"


@pytest.mark.parametrize(
    ("version", "events", "inside"),
    [
        ("1.0", [("introduced", "0")], True),
        ("1.0", [("introduced", "0"), ("fixed", "1.0")], False),
        ("0.9", [("introduced", "0"), ("fixed", "1.0")], True),
        ("1.0", [("introduced", "0"), ("last_affected", "1.0")], True),
        ("1.0.1", [("introduced", "0"), ("last_affected", "1.0")], False),
        ("2.5", [("introduced", "0"), ("fixed", "1.0"), ("introduced", "2.0"), ("fixed", "3.0")], True),
        ("1.5", [("fixed", "3.0"), ("introduced", "2.0"), ("fixed", "1.0"), ("introduced", "0")], False),
        ("0.7.4.dev65+g22757848", [("introduced", "0.6.0"), ("fixed", "0.8.0")], True),
        ("1.0", [("introduced", "1.1")], False),
        ("1.0", [("introduced", "0"), ("fixed", "1.0"), ("introduced", "1.0")], True),
    ],
)
def test_ranges_are_read_by_the_rules_of_osv(version, events, inside):
    assert audit.affects(advisory(ranges=[span(*events)]), "alpha", version) is inside


def test_versions_are_compared_as_versions_and_other_ecosystems_and_commits_do_not_count():
    assert audit.affects(advisory(package="Al.pha", versions=["1.0.0", "odd"]), "al-pha", "1.0")
    record = advisory(versions=["1.0"])
    record["affected"][0]["package"]["ecosystem"] = "npm"
    assert not audit.affects(record, "alpha", "1.0")
    assert not audit.affects(advisory(ranges=[{"type": "GIT", "events": [{"introduced": "0"}]}]), "alpha", "1.0")


def test_a_zip_as_the_service_exports_it_is_read(tmp_path):
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("GHSA-1.json", json.dumps(advisory("GHSA-1")))
        archive.writestr("GHSA-2.json", json.dumps(advisory("GHSA-2", "Beta_x")))
    assert {name: [each["id"] for each in records] for name, records in audit.read(path).items()} == {
        "alpha": ["GHSA-1"],
        "beta-x": ["GHSA-2"],
    }


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "{}", '{"vulns": [{"affected": []}]}', '[{"id": "x"}]', "\0"])
def test_a_file_without_advisories_is_refused(tmp_path, text):
    path = tmp_path / "advisories.json"
    path.write_text(text)
    with pytest.raises(AuditIncomplete):
        audit.read(path)
    with pytest.raises(AuditIncomplete, match=r"none\.json"):
        audit.read(tmp_path / "none.json")
