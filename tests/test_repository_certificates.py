"""The certificates of this repository: they are of full passes, and the README tells what they say."""

from __future__ import annotations

import json

import pytest

from verlock import paths
from verlock.proving import status
from verlock.variant import certificate, recipe_file
from verlock.variant.chosen import names


def test_all_are_passes():
    for path in sorted(paths.CERTIFICATES.glob("*/*.json")):
        data = certificate.of(json.loads(path.read_text(encoding="utf-8")))
        assert data["variant"] == path.parent.name
        verdicts = {gate["verdict"] for each in [*data["runs"], data["verl"]] for gate in each["gates"]}
        assert verdicts == {"pass"}, path


def test_the_readme_is_current():
    text = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    assert status.BEGIN in text
    assert status.in_readme(text) == text, "run `verlock status --readme`"


@pytest.mark.parametrize("variant", names())
def test_every_limit_says_where_it_was_seen_and_that_is_this_variants_own(variant):
    folder = paths.CERTIFICATES / variant
    for entry in recipe_file.toml(folder / "limits.toml")["limit"] if (folder / "limits.toml").exists() else []:
        assert entry["seen"].startswith("https://") or (folder / entry["seen"]).is_file(), entry
