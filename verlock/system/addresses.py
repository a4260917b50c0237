"""Addresses: how they are shown without the credentials in them, and how a user's words about proxies reach everything.

Whatever prints or keeps a URL calls `shown`; whatever prints or keeps what a child or a library said calls `scrubbed`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

HIDDEN = "***"  # stands where credentials were
BUNDLES = (
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)  # variables with a file of certificates, besides SSL_CERT_FILE

_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<userinfo>[^\s/?#'\"`<>]*)@")
_TOKEN_IN_PATH = re.compile(r"(?P<before>://[^\s/]+/t/)(?P<token>[^\s/]+)")  # conda's: https://host/t/TOKEN/channel
_QUERY = re.compile(r"(?P<address>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s?#'\"`<>]+)\?[^\s#'\"`<>)\]]+")
_BARE_PROXY = re.compile(r"[^/@\s]+:[^/@\s]*(?=@)")  # user:secret@proxy:3128, as HTTP_PROXY may say it
_SHORTEST = 4  # characters; a shorter secret would be found in words that have nothing to do with it


def shown(url: str) -> str:
    """A URL (or a path, or several with commas between) as it may be printed and kept: no user, password, token or query."""
    url = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", url)
    url = _QUERY.sub(rf"\g<address>?{HIDDEN}", url)
    return _TOKEN_IN_PATH.sub(rf"\g<before>{HIDDEN}", url)


def scrubbed(text: str) -> str:
    """What a child or a library said, as it may be printed and kept.

    No URL in it has credentials, and no secret is left that a URL in this process's variables holds, however it is written.
    """
    text = shown(text)
    for secret in _secrets(os.environ):
        text = text.replace(secret, HIDDEN)
    return text


def host(url: str) -> str:
    """The host of a URL with its port, without credentials; the URL itself (shown) where it names none."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or shown(url)
    except ValueError:
        return shown(url)


def split(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without its credentials, and these decoded. Raises ValueError for what is no URL."""
    parts = urlsplit(url)
    userinfo, found, place = parts.netloc.rpartition("@")
    if not found:
        return url, None
    user, _, password = userinfo.partition(":")
    return parts._replace(netloc=place).geturl(), (unquote(user), unquote(password))


def as_at(url: str, source: str) -> str:
    """A URL with the credentials of `source`, where both are on the same host and `url` has none."""
    there, own = urlsplit(source), urlsplit(url)
    userinfo, found, place = there.netloc.rpartition("@")
    if not found or (there.scheme, place) != (own.scheme, own.netloc):
        return url
    return own._replace(netloc=f"{userinfo}@{place}").geturl()


def certificates() -> dict[str, str]:
    """SSL_CERT_FILE for a child that knows no other variable (uv), where the user has set one of the others only."""
    if os.environ.get("SSL_CERT_FILE"):
        return {}
    return next(({"SSL_CERT_FILE": os.environ[name]} for name in BUNDLES if os.environ.get(name)), {})


def _secrets(variables: Mapping[str, str]) -> list[str]:
    """The passwords and tokens in the URLs that variables hold, as written and decoded, the longest first."""
    found: set[str] = set()
    for name, value in variables.items():
        if "://" in value:
            userinfos = [match["userinfo"] for match in _USERINFO.finditer(value)]
            found.update(match["token"] for match in _TOKEN_IN_PATH.finditer(value))
        elif "@" in value and name.upper().endswith("_PROXY"):
            userinfos = _BARE_PROXY.findall(value)
        else:
            continue
        for userinfo in userinfos:
            user, colon, password = userinfo.partition(":")
            found.add(password if colon else user)
    found |= {unquote(secret) for secret in found}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=lambda secret: (-len(secret), secret))
