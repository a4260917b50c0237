"""The index that stands between the resolvers and the one the user has, on an index that the test makes up."""

from __future__ import annotations

import contextlib
import hashlib
import json

import fakeindex
import pytest
import requests

from verlock.locking import loopback_index
from verlock.system import loopback
from verlock.variant.recipe import Override


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


@pytest.fixture
def offering(clone):
    """An index whose one wheel has its metadata beside it: `offer` is what the page says of it, `body` what comes."""

    @contextlib.contextmanager
    def serve(offer, body, kind="text/plain"):
        with fakeindex.serve() as made:
            sha256 = made.release("big", "1.0", "2025-01-01", "six")

            class Front(loopback.Handler):
                def do_GET(self):
                    if self.path.endswith(".metadata"):
                        return self.answer(200, body, Content_Type=kind)
                    headers = {"Range": self.headers["Range"]} if self.headers["Range"] else {}
                    answer = requests.get(made.url.removesuffix("/simple") + self.path, headers=headers, timeout=9)
                    if "/simple/" in self.path:
                        page = answer.json()
                        page["files"][0]["core-metadata"] = offer
                        return self.answer(200, json.dumps(page).encode(), Content_Type=loopback_index.JSON)
                    more = {"Content_Range": answer.headers["Content-Range"]} if headers else {}
                    return self.answer(answer.status_code, answer.content, **more)

            with loopback.serve(Front) as url, loopback_index.serve(f"{url}/simple") as index:
                index.page("big")
                yield index, sha256, clone.parent / "cache/metadata" / sha256[:2] / sha256

    return serve


TEXT = b"Metadata-Version: 2.1\nName: big\nVersion: 1.0\n"


def test_metadata_with_its_hash_is_kept(offering):
    with offering({"sha256": hashlib.sha256(TEXT).hexdigest()}, TEXT) as (index, sha256, kept):
        assert index.metadata(sha256) == TEXT == kept.read_bytes()


def test_metadata_that_nobody_vouches_for_is_used_and_not_kept(offering):
    with offering(True, TEXT) as (index, sha256, kept):
        assert index.metadata(sha256) == TEXT and not kept.exists()


@pytest.mark.parametrize(
    ("offer", "body", "kind"),
    [
        (True, b"<html>log in</html>", "text/html"),
        (True, b"<html>log in</html>", "text/plain"),
        ({"sha256": "0" * 64}, TEXT, "text/plain"),
    ],
)
def test_what_is_no_metadata_is_read_out_of_the_wheel_instead(offering, offer, body, kind):
    with offering(offer, body, kind) as (index, sha256, kept):
        assert b"Requires-Dist: six" in index.metadata(sha256) and b"Requires-Dist: six" in kept.read_bytes()


def test_a_web_page_that_an_earlier_verlock_kept_is_not_believed(offering):
    with offering(True, TEXT) as (index, sha256, kept):
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"<html>log in</html>")
        assert index.metadata(sha256) == TEXT


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


def override(requirer="Big_One", requirement="numpy<2.0.0"):
    return Override(requirer=requirer, requirement=requirement, reason="a", link="https://example.org")


def test_a_view_leaves_out_what_is_set_aside_and_nothing_else(clone):
    asks = ("numpy<2.0.0", "numpy<2.0.0; extra == 'all'", "six")
    with fakeindex.serve() as made, loopback_index.serve(made.url) as server:
        for name in ("big_one", "other"):
            made.release(name, "1.0", "2025-01-01", *asks)
        assert server.view(()) == f"{server.url}/simple"
        view = server.view([override()])
        assert view == server.view([override()]) != server.view([override(requirement="six")])

        def asked(simple, project):
            page = requests.get(f"{simple}/{project}/", headers={"Accept": loopback_index.JSON}, timeout=9).json()
            (item,) = page["files"]
            assert (
                requests.get(item["url"], timeout=9).content
                == next(iter(made.files[project.replace("-", "_")].values()))[0]
            )
            text = requests.get(f"{item['url']}.metadata", timeout=9).text
            return [line.removeprefix("Requires-Dist: ") for line in text.splitlines() if line.startswith("Requires")]

        made.files["big-one"] = made.files["big_one"]
        assert asked(view, "big-one") == list(asks[1:])
        assert asked(view, "other") == list(asks), "another package's requirement is its own"
        assert asked(server.view(()), "big-one") == list(asks), "the plain index is as it was"


@pytest.mark.parametrize(
    ("line", "gone"),
    [
        ("Requires-Dist: numpy<2.0.0", True),
        ("Requires-Dist: NumPy (<2.0.0)", True),
        ("requires-dist:numpy <2.0.0", True),
        ("Requires-Dist: numpy<2", True),
        ("Requires-Dist: numpy>=1.20,<2.0.0", False),
        ("Requires-Dist: numpy<2.0.0; python_version < '3.13'", False),
        ("Requires-Dist: not a requirement", False),
        ("Keywords: numpy<2.0.0", False),
    ],
)
def test_only_the_very_requirement_is_taken_out_however_it_is_spelt(line, gone):
    text = f"Metadata-Version: 2.1\n{line}\nRequires-Dist: six\n\nRequires-Dist: numpy<2.0.0 is prose here\n"
    expected = text.replace(f"{line}\n", "") if gone else text
    assert loopback_index.without(text.encode(), ["numpy<2.0.0"]).decode() == expected
