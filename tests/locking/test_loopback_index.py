"""The index that stands between the resolvers and the one the user has, on an index that the test makes up."""

from __future__ import annotations

import fakeindex
import pytest
import requests

from verlock.locking import loopback_index


def test_metadata_is_read_by_range_and_kept(clone):
    with fakeindex.serve() as made, loopback_index.serve(made.url) as server:
        sha256 = made.release("big", "1.0", "2025-01-01", "six")
        page = requests.get(f"{server.url}/simple/big", headers={"Accept": loopback_index.JSON}, timeout=9).json()
        (item,) = page["files"]
        assert item["url"].startswith(server.url)
        assert item["upload-time"] == "2025-01-01T12:00:00.000000Z"
        for _ in range(2):
            text = requests.get(f"{item['url']}.metadata", timeout=9).text
            assert "Requires-Dist: six" in text
        assert made.asked["/files/big/big-1.0-py3-none-any.whl"] == 1
        assert requests.get(item["url"], timeout=9).content == made.files["big"]["big-1.0-py3-none-any.whl"][0]
        assert requests.get(f"{server.url}/simple/unknown", timeout=9).json()["files"] == []
        assert (clone.parent / "cache" / "metadata" / sha256[:2] / sha256).read_text() == text


def test_the_users_index_is_found_in_their_settings(monkeypatch):
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    default = loopback_index.upstream()
    assert default.startswith("https://")
    assert default.endswith("/simple")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@mirror.example/simple/")
    assert loopback_index.upstream() == "https://user:secret@mirror.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "corp=https://corp.example/simple")
    assert loopback_index.upstream() == "https://corp.example/simple"


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2025-04-02T17:33:04.463369Z", "2025-04-02T17:33:04+00:00"),
        ("2025-04-02T17:33:04.4Z", "2025-04-02T17:33:04+00:00"),
        ("2025-04-03T01:00:00+02:00", "2025-04-02T23:00:00+00:00"),
        ("2025-04-02T17:33:04", "2025-04-02T17:33:04+00:00"),
    ],
)
def test_upload_times_are_read_in_every_form(text, utc):
    moment = loopback_index._moment(text)
    assert moment
    assert moment.isoformat() == utc
    assert loopback_index._moment(None) is None
