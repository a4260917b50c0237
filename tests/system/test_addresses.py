"""Addresses as they are printed: everything but what lets somebody in."""

from __future__ import annotations

import pytest

from verlock.system import addresses


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/simple", "https://host/simple"),
        ("https://user:secret@host:8080/simple", "https://***@host:8080/simple"),
        ("https://tok3n@host/a", "https://***@host/a"),
        ("https://user:se@cret@host/a@b", "https://***@host/a@b"),
        ("git+https://user:secret@host/x.git@v1", "git+https://***@host/x.git@v1"),
        ("https://host/file.whl?X-Signature=secret&b=1#sha256=ab", "https://host/file.whl?***#sha256=ab"),
        ("https://host/t/tk-secret/channel", "https://host/t/***/channel"),
        ("http://a:secret@one/x,http://b:secret@two/y", "http://***@one/x,http://***@two/y"),
        ("/a/folder/t/here/x@y", "/a/folder/t/here/x@y"),
        ("git@host:a/b.git", "git@host:a/b.git"),
    ],
)
def test_a_url_is_shown_without_what_lets_in(url, shown):
    assert addresses.shown(url) == shown
    assert addresses.shown(shown) == shown


def test_what_a_child_said_is_scrubbed_of_what_the_variables_hold(monkeypatch):
    monkeypatch.setenv("VERLOCK_ARTEFACTS", "https://user:p%40ssw0rd@host/a")
    monkeypatch.setenv("HTTPS_PROXY", "user:proxy-secret@proxy:3128")
    monkeypatch.setenv("VERLOCK_CONDA_MIRROR", "https://host/t/tk-123-abc/channel")
    said = "GET https://user:p%40ssw0rd@host/a; login p@ssw0rd; proxy-secret; https://host/t/tk-123-abc/channel/x; u@h"
    assert addresses.scrubbed(said) == "GET https://***@host/a; login ***; ***; https://host/t/***/channel/x; u@h"


def test_a_short_password_leaves_words_alone(monkeypatch):
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://user:a@host/simple")
    assert addresses.scrubbed("a package at https://user:a@host/simple") == "a package at https://***@host/simple"


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:secret@host:8080/a", "host:8080"),
        ("host/a", "host/a"),
        ("http://[", "http://["),
        ("https://user:secret@[::1]:80/a", "[::1]:80"),
    ],
)
def test_the_host_is_named_without_credentials(url, host):
    assert addresses.host(url) == host
